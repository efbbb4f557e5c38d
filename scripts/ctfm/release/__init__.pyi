from .packing import pack as pack
from .packing import verify_bundle as verify_bundle
