from .algo import CTFMAlgo as CTFMAlgo
from .evaluation import validate_fold as validate_fold
from .inference import InferClass as InferClass
from .training import train_fold as train_fold
