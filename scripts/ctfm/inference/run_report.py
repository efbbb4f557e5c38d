"""What a run over scans did: versions, device, input checks, seconds, memory, what was found."""

from __future__ import annotations

import json
import logging
import platform
import sys
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import monai
import torch
from ignite.engine import Events

from ctfm import __version__
from ctfm.base.errors import UserError
from ctfm.base.files import atomic_path
from ctfm.imaging.listing import result_name
from ctfm.imaging.provenance import Provenance
from ctfm.imaging.scans import Failure
from ctfm.inference.evaluators import FinishedScan, ScanEvaluator

__all__ = ["RunReport", "peak_memory_mib"]

logger = logging.getLogger(__name__)

NAME = "report.json"
Record = dict[str, Any]


class RunReport:
    """Handler: a report in the folder of the results, written anew after each scan.

    Scans that an earlier run into the same folder finished stay in it, as their results do.

    Args:
        output_dir: folder of the results.
        provenance: the weights and settings of the run.
        image_key: item that holds the scan.
        name: file name; runs into one folder at the same time need one each.
    """

    def __init__(
        self,
        output_dir: str,
        provenance: Provenance | None = None,
        image_key: str = "image",
        name: str = NAME,
    ) -> None:
        self.path = Path(output_dir) / name
        self.provenance = Provenance() if provenance is None else provenance
        self.image_key = image_key
        self.records: dict[str, Record] = {}
        self.run: Record = {}
        self.device = torch.device("cpu")

    def attach(self, engine: ScanEvaluator) -> None:
        """Write whenever a scan is done or has failed."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.tell_when_finished(self._finish)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, engine: Any) -> None:
        self.device = engine.state.device
        self.records = _finished(self.path)
        self.run = {
            "started": _now(),
            "versions": {
                "ct-fm-bundles": __version__,
                "monai": monai.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "device": _device(engine.state.device),
            "threads": torch.get_num_threads(),
            "checkpoint": self.provenance.weights,
            "settings": self.provenance.settings,
        }

    def _finish(self, scan: FinishedScan | Failure) -> None:
        if isinstance(scan, Failure):
            self.records[scan.path] = {"source": scan.path, "failed": scan.reason}
        else:
            self.records[result_name(scan.row, self.image_key)] = self._record(scan)
        self._write()

    def _record(self, scan: FinishedScan) -> Record:
        row = scan.row
        source = str(row[self.image_key].meta["filename_or_obj"])
        self.records.pop(source, None)  # it failed in an earlier run
        return {
            "source": source,
            "finished": _now(),
            "input": asdict(row["input_check"]) if "input_check" in row else None,
            "seconds": {stage: round(seconds, 3) for stage, seconds in scan.seconds.items()},
            "found": scan.output.get("found"),
            "anatomy": scan.output.get("anatomy"),
        }

    def _write(self, _engine: Any = None) -> None:
        failed = [one for one in self.records.values() if "failed" in one]
        document = {
            **self.run,
            "finished": _now(),
            "peak_memory_mib": peak_memory_mib(self.device),
            "scans_done": len(self.records) - len(failed),
            "scans_failed": len(failed),
            "scans": self.records,
        }
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(document, indent=4) + "\n", encoding="utf-8")


def peak_memory_mib(device: Any) -> dict[str, float | None]:
    """The most that this process has held: main memory, and that of a GPU, in MiB.

    Args:
        device: that of the network.

    Returns:
        ``process`` and ``gpu``; None where it is not known.
    """
    process = None
    if sys.platform != "win32":
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        process = round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
    gpu = None
    if torch.device(device).type == "cuda":
        gpu = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return {"process": process, "gpu": gpu}


def _finished(path: Path) -> dict[str, Record]:
    """What an earlier run wrote; a file that is none of ours is left out, and then replaced."""
    try:
        scans = json.loads(path.read_text(encoding="utf-8"))["scans"]
        return {str(name): dict(one) for name, one in scans.items() if "failed" not in one}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        logger.warning("%s: not a report of a run: it is written anew", path)
        return {}
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def _device(device: Any) -> str:
    kind = torch.device(device)
    return torch.cuda.get_device_name(kind) if kind.type == "cuda" else str(kind)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
