from .folds import check_labels as check_labels
from .folds import read_fold as read_fold
from .labelled import few_subjects as few_subjects
from .labelled import read_labelled as read_labelled
from .reading import few_shot as few_shot
from .reading import read_datalist as read_datalist
