"""Studies: one file that stands for every run it needs.

With `tune`, a study has two stages. First every arm is trained at every value of the same grid, on
the training images less a validation split, and the test set is not read. Then each arm is trained
at the value that did best there, with fresh seeds, on all training images, and the test set is read
once. Nothing but the run directories remembers how far a study is: which values did best is
worked out from them again each time.
"""

from bnlab.study.estimate import Estimate, estimate_left
from bnlab.study.plan import Study, load_shared_study, load_study, stored_path
from bnlab.study.render import (
    render_choices,
    render_estimate,
    render_plan,
    render_results,
    render_under_way,
    results,
    study_as_data,
)
from bnlab.study.run import Finished, StudyFailedError, StudyOptions, raise_failures, run_study
from bnlab.study.survey import Choice, Row, Survey, survey_study
from bnlab.studyfile import StudyFile

__all__ = [
    "Choice",
    "Estimate",
    "Finished",
    "Row",
    "Study",
    "StudyFailedError",
    "StudyFile",
    "StudyOptions",
    "Survey",
    "estimate_left",
    "load_shared_study",
    "load_study",
    "raise_failures",
    "render_choices",
    "render_estimate",
    "render_plan",
    "render_results",
    "render_under_way",
    "results",
    "run_study",
    "stored_path",
    "study_as_data",
    "survey_study",
]
