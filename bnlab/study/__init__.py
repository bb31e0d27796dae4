"""Studies: one file that stands for every run it needs.

With `tune`, a study has two stages. First every arm is trained at every value of the same grid, on
the training images less a validation split, and the test set is not read. Then each arm is trained
at the value that did best there, with fresh seeds, on all training images, and the test set is read
once. With `each_seed` the first stage is a pilot, and between the two every final seed tunes for
itself beside the pilot's best: the test then compares tuned procedures, and holds its error rate,
which it does not where one choice stands for all seeds. Nothing but the run directories remembers
how far a study is: which values did best is worked out from them again each time.
"""
