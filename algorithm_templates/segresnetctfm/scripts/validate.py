"""Score this fold: `python scripts/validate.py run --config_file configs/hyper_parameters.yaml`."""

import fire

from ctfm.auto3dseg import validate_fold

if __name__ == "__main__":
    fire.Fire({"run": validate_fold})
