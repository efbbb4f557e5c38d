from .encoders import ContrastiveNetwork as ContrastiveNetwork
from .encoders import PooledClassifier as PooledClassifier
from .encoders import PooledEncoder as PooledEncoder
from .encoders import batch_norm_mlp as batch_norm_mlp
from .encoders import distributed as distributed
from .precision import fast_dtype as fast_dtype
