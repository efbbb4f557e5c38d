from .decathlon import write_dataset as write_dataset
from .drawing import draw_head as draw_head
from .drawing import draw_torso as draw_torso
from .drawing import save_phantom as save_phantom
from .drawing import write_volume as write_volume
