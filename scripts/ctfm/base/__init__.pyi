from .errors import UserError as UserError
from .errors import explain_in_one_line as explain_in_one_line
from .files import atomic_path as atomic_path
from .files import run_folder as run_folder
from .sharding import find_shard as find_shard
from .sharding import local_device as local_device
from .sharding import take_shard as take_shard
