"""Auto3DSeg with CT-FM's recipe on phantoms with tumours: pretrained against from scratch.

    make demo-auto3dseg

A narrow encoder is pretrained on phantoms without labels; AutoRunner then trains the same folds
with and without it; each case is scored by the fold that has not trained on it; the two runs are
compared. Each step is a command that can be typed, printed before it runs. Results:
demo_auto3dseg_output/.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from steps import CTFM, RUN, configs, heading, start_afresh, step

from ctfm.base import explain_in_one_line

ROOT = Path(__file__).resolve().parents[1]
# relative to ROOT, where every command runs
PRETRAIN = Path("bundles/ct_fm_pretrain")
OUT = Path("demo_auto3dseg_output")
TASK = "Task03_Liver"
UNLABELLED, DATA, LIST = OUT / "unlabelled", OUT / TASK, OUT / "folds.json"
VIEWS, MODELS, ENCODER = OUT / "views", OUT / "pretraining", OUT / "encoder.safetensors"
RUNS = {"pretrained": OUT / "pretrained", "scratch": OUT / "scratch"}
INPUTS = {name: OUT / f"{name}.yaml" for name in RUNS}
COMPARISON = OUT / "comparison"
MADE = (
    UNLABELLED,
    DATA,
    LIST,
    VIEWS,
    MODELS,
    ENCODER,
    *RUNS.values(),
    *INPUTS.values(),
    COMPARISON,
)

AUTO_RUNNER = (sys.executable, "-m", "monai.apps.auto3dseg", "AutoRunner", "run")
#: A network and a schedule for minutes on two CPU cores.
OPTIONS: dict[str, Any] = {
    "modality": "CT",
    "datalist": LIST.as_posix(),
    "dataroot": DATA.as_posix(),
    "class_names": ["liver", "cancer"],
    "num_epochs": 100,
    "num_epochs_per_validation": 50,
    "learning_rate": 0.002,
    "roi_size": [48, 48, 48],
    "hu_window": [-1024, 2048],  # CT-FM's in both runs: the encoder alone differs
    "network": {"init_filters": 8},
}
BANNER = f"""\
Auto3DSeg on phantoms with tumours, in under ten minutes on two CPU cores: does a pretrained
encoder help? Nothing is downloaded: a narrow encoder, pretrained here for a minute or two, stands
in for CT-FM's. Ctrl-C stops. Commands run in {ROOT}"""
CAVEAT = """\
Drawn tumours in drawn bodies, an encoder of two minutes' training: the comparison shows how the
question is asked and answered. It says nothing about CT-FM, nor about real tumours.
"""


def demo() -> None:
    """The whole chain, afresh each time."""
    started = time.monotonic()
    start_afresh(OUT, MADE)
    print(BANNER)
    heading("1/6  Phantoms: without labels to pretrain on, with liver tumours to segment")
    phantoms = [*CTFM, "phantom", "msd"]
    others = {"subjects": 1, "tests": 8, "seed": 100, "margin": None}
    step("phantoms", phantoms, root=UNLABELLED, task=TASK, **others)
    step("phantoms", phantoms, root=OUT, task=TASK, subjects=12, tests=1)
    step("datalist", [*CTFM, "datalist", "msd"], root=DATA, out=LIST, folds=2)
    heading("2/6  An encoder is pretrained on the phantoms without labels")
    pretrain()
    for number, (name, work) in enumerate(RUNS.items(), start=3):
        heading(f"{number}/6  AutoRunner: {name}")
        auto_run(name, work)
    heading("5/6  Each case is scored by the fold that has not trained on it")
    for work in RUNS.values():
        step("scores", [*CTFM, "auto3dseg", "evaluate", str(work)])
    heading("6/6  The two runs are compared: A is pretrained, B is from scratch")
    compare = [*CTFM, "compare", *map(str, RUNS.values())]
    step("comparison", compare, out=COMPARISON)
    closing(time.monotonic() - started)


def pretrain() -> None:
    """From scans to an encoder's file."""
    folder = UNLABELLED / TASK / "imagesTs"
    scans = folder / "scans.json"
    step("scans", [*CTFM, "datalist", "ct"], root=folder, out=scans)
    build = [*CTFM, "store", "build", str(scans)]
    step("store", build, task="pretraining", spacing="3,3,3", out=VIEWS)
    options = configs(PRETRAIN, "train", "store", "few_minutes_pretraining")
    options |= {"spacing": "[3.0,3.0,3.0]", "ckpt_dir": MODELS, "output_dir": MODELS}
    step("pretraining", RUN, **options, store=VIEWS)
    step("encoder", [*CTFM, "weights", "extract", str(MODELS / "last.pt")], out=ENCODER)


def auto_run(name: str, work: Path) -> None:
    """AutoRunner as its command line runs it, with an input file that is written and shown."""
    encoder = ENCODER.as_posix() if name == "pretrained" else None
    text = yaml.safe_dump({**OPTIONS, "pretrained": encoder}, sort_keys=False)
    INPUTS[name].write_text(text)
    print(f"{INPUTS[name]}:\n")
    print("".join(f"    {line}\n" for line in text.splitlines()))
    options = {"work_dir": work, "input": INPUTS[name], "algos": "segresnetctfm"}
    step(name, AUTO_RUNNER, **options, templates_path_or_url="algorithm_templates")


def closing(seconds: float) -> None:
    """Say what came out, where it lies, and how to go on."""
    heading(f"Done in {seconds / 60:.1f} minutes: {verdict()}")
    print(CAVEAT)
    for path, what in (
        (COMPARISON / "compare.png", "picture"),
        (COMPARISON / "compare.csv", "case by case"),
        (RUNS["pretrained"] / "ensemble_output", "predictions"),
        (RUNS["pretrained"] / "segresnetctfm_0" / "model", "network, curves"),
    ):
        print(f"  {what:<16}{path.resolve()}")
    template = ROOT / "algorithm_templates" / "segresnetctfm" / "docs" / "README.md"
    print(f"\nYour own task, and CT-FM's own encoder: {template}")


def verdict() -> str:
    """The comparison's answer in words."""
    return str(json.loads((COMPARISON / "compare.json").read_text())["verdict"])


def main() -> None:
    """Run the demo in the project's folder."""
    explain_in_one_line()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # steps are stopped as by Ctrl-C
    os.chdir(ROOT)
    demo()


if __name__ == "__main__":
    main()
