"""What a run or a report was made with: versions, kernels, processor and devices."""

from __future__ import annotations

from typing import Any


def collect() -> dict[str, dict[str, Any]]:
    """Versions, build, processor and devices, as nested plain values."""
    import os
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    import ivan_fast

    versions = {"python": platform.python_version()}
    packages = (
        "ivan_fast",
        "torch",
        "numpy",
        "nibabel",
        "monai",
        "lightning-fabric",
        "safetensors",
        "typer",
        "rich",
        "pydicom",
        "SimpleITK",
    )
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    devices: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory GB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
    }
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        size = f"{properties.total_memory / 2**30:.0f} GB"
        devices[f"cuda:{index}"] = (
            f"{properties.name}, {size}, compute capability {properties.major}.{properties.minor}"
        )
    if not torch.cuda.is_available():
        devices["cuda"] = "no device"
    return {"Versions": versions, "Kernels": dict(ivan_fast.build_info()), "Devices": devices}


def _processor() -> str:
    import platform

    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
