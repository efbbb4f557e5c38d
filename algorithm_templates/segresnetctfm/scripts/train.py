"""Train this fold: `python scripts/train.py run --config_file configs/hyper_parameters.yaml`."""

import fire

from ctfm.auto3dseg.training import run

if __name__ == "__main__":
    fire.Fire({"run": run})
