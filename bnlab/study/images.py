"""Whether the finished runs of a study have the images that its next ones would have."""

from functools import cache
from pathlib import Path

from bnlab.study.survey import Survey
from bnlab.training.resume import checksum_at_hand, refuse_other_images


class ImagesAtHand:
    """The images below `dataset.root`, looked at once for each dataset section."""

    def __init__(self) -> None:
        self._checksum = cache(checksum_at_hand)
        self._seen = set[Path]()

    def refuse_others(self, survey: Survey) -> None:
        """Refuse to count a finished run, here or shared, that was trained on other images.

        Raises:
            RefusedError: Naming the run and both images.
            DataError: If those at hand cannot be read.
        """
        for cell, state in survey.cells.values():
            if state in ("done", "diverged") and cell.root not in self._seen:
                dataset, files = cell.config.dataset, survey.study.files_of(cell)
                refuse_other_images(files, self._checksum(dataset), dataset.root)
                self._seen.add(cell.root)
