"""What options do that many commands have in common, said once."""

from __future__ import annotations

__all__ = ["OPTION_TEXTS"]

OPTION_TEXTS = {
    "amp": "compute in the fast number format of the device, where it has one",
    "base_dir": "folder that the list's paths are relative to; default: the list's own",
    "batch_size": "patches or volumes that pass the encoder together",
    "checkpoints": "encoders: files, patterns in quotes, folders or repository ids",
    "classes": "class group such as organs, or class ids; default: all that the labels hold",
    "contrast": "take series with a contrast agent, too",
    "device": "cpu, cuda:0, …; default: a GPU if there is one",
    "input_check": "what to do about values that are not Hounsfield units",
    "max_thickness": "mm of the thickest slice",
    "min_extent": "fewest mm along the body's axis",
    "min_slices": "fewest slices of a series",
    "min_thickness": "mm of the thinnest slice",
    "offline": "use the hub's cache alone, never the network",
    "overlap": "share of a window that neighbouring windows have in common",
    "overwrite": "do finished scans again",
    "patch": "voxels of a patch or window, axes SPL; at a spacing of 3 mm, take 32,32,32",
    "preview": "write pictures",
    "progress": "show progress bars, on a terminal",
    "random_seeds": "number of encoders with random weights that are compared with the checkpoints",
    "resamples": "resamples of the bootstrap",
    "revision": "branch, tag or commit of a repository; default: the tested revision",
    "scans": "number of scans that are used, from the start of the list; default: all",
    "seed": "seeds the random draws",
    "shard": "which part this process takes, from 0; default: as torchrun or srun started it",
    "shards": "parts in all; default: as many as processes were started",
    "skip_bad": "leave out cases that have a problem, and list them, instead of refusing",
    "spacing": "voxel size in mm",
    "split": "list of the datalist that is used",
    "thickness": "of several series, take the one of slices nearest to this in mm; 0: the thinnest",
    "workers": "processes; default: as many as there are cores",
}
