"""Train this fold: `python scripts/train.py run --config_file configs/hyper_parameters.yaml`."""

import fire

from ctfm.auto3dseg import train_fold

if __name__ == "__main__":
    fire.Fire({"run": train_fold})
