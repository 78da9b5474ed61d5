"""Builds the package from settings.ini, the one home of its metadata."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
meta = config["DEFAULT"]
raw_extras = {name: text for name, text in config["extras"].items() if name not in config.defaults()}


def requirements(text):
    """The requirements of one extra, with the extras that it names in [brackets] filled in."""
    for item in (part.strip() for part in text.split(",")):
        if item.startswith("["):
            yield from requirements(raw_extras[item.strip("[]")])
        elif item:
            yield item


setup(
    name=meta["name"],
    version=meta["version"],
    description=meta["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8") if (here / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    author=meta["author"],
    license=meta["license"],
    keywords=meta["keywords"].split(),
    python_requires=f">={meta['min_python']}",
    packages=find_packages(include=["mlops_course", "mlops_course.*"]),
    package_data={"mlops_course": ["models/*", "models/*/*/*", "texts/*"]},
    install_requires=meta["requirements"].split("\n")[1:],
    extras_require={name: list(requirements(text)) for name, text in raw_extras.items()},
    entry_points={
        "console_scripts": [meta["console_scripts"]],
        "pytest11": [meta["pytest_plugin"]],
        "papermill.engine": [meta["papermill_engine"]],
        "jupyter_client.kernel_provisioners": [meta["kernel_provisioner"]],
    },
)
