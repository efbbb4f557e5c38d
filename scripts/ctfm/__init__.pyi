from .embedding.embedder import Embedder as Embedder
from .weights.loading import load_encoder as load_encoder

__version__: str
