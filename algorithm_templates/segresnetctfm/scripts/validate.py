"""Score this fold: `python scripts/validate.py run --config_file configs/hyper_parameters.yaml`."""

import fire

from ctfm.auto3dseg.evaluation import run

if __name__ == "__main__":
    fire.Fire({"run": run})
