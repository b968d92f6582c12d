"""Links to where a page can be run, made from the one setting of the repository's address."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

BRANCH = "main"
GITHUB = re.compile(r"https://github\.com/(?P<name>[\w.-]+/[\w.-]+?)(?:\.git)?/?")


@dataclass(frozen=True)
class Repository:
    """The book's public repository on GitHub, by its address."""

    url: str

    def __post_init__(self):
        if not GITHUB.fullmatch(self.url):
            raise ValueError(
                f"the repository's address must be https://github.com/OWNER/NAME, got {self.url!r}"
            )

    @property
    def name(self) -> str:
        """Owner and name: `owner/lossbook`."""
        return GITHUB.fullmatch(self.url)["name"]

    def on_binder(self, path: str) -> str:
        """Where Binder opens a file of the repository in JupyterLab."""
        return f"https://mybinder.org/v2/gh/{self.name}/HEAD?urlpath=lab/tree/{quote(path)}"

    def on_colab(self, path: str) -> str:
        """Where Colab opens a notebook of the repository."""
        address = "https://colab.research.google.com/github"
        return f"{address}/{self.name}/blob/{BRANCH}/{quote(path)}"

    @property
    def for_colab(self) -> str:
        """What has to run first in Colab, which does not install the package by itself."""
        return f'%pip install -q "lossbook[book] @ git+https://github.com/{self.name}"'

    def on_hub(self, hub: str, path: str) -> str:
        """Where a JupyterHub pulls the repository with nbgitpuller and opens a file of it."""
        folder = self.name.split("/")[1]
        query = {
            "repo": f"https://github.com/{self.name}",
            "branch": BRANCH,
            "urlpath": f"lab/tree/{folder}/{path}",
        }
        return f"{hub.rstrip('/')}/hub/user-redirect/git-pull?{urlencode(query)}"


def of_project(home: Path) -> Repository | None:
    """The address that `pyproject.toml` names as `Repository` in `[project.urls]`, if it does.

    Raises:
        ValueError: it is not an address on GitHub.
    """
    import tomllib

    project = tomllib.loads((home / "pyproject.toml").read_text("utf-8"))["project"]
    address = project.get("urls", {}).get("Repository")
    return Repository(address) if address else None
