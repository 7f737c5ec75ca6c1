"""Which folder is which package; everything else about the distribution is in pyproject.toml."""

from setuptools import find_packages, setup

FOLDERS = {
    "fl_main": "fl_main",
    "fl_main.agent": "agent",
    "fl_main.aggregator": "aggregator",
    "fl_main.db": "db",
}

setup(
    package_dir=FOLDERS,
    # Found, not listed, so that a new sub-package cannot be forgotten in the wheel.
    packages=[
        name
        for package, folder in FOLDERS.items()
        for name in [package, *(f"{package}.{sub}" for sub in find_packages(folder))]
    ],
    package_data={"fl_main": ["py.typed"], "fl_main.db.web": ["templates/**", "static/**"]},
    exclude_package_data={"fl_main.db.web": ["npm/*"]},  # what static/vendor is built with
)
