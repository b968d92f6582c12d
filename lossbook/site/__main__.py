"""`python -m lossbook.site` builds the site into `build/site`."""

import sys
import time
from pathlib import Path

import click

from lossbook import catalog, notebooks
from lossbook.site import build


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", metavar="[NOTEBOOK…]", nargs=-1)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="[default: build/site]")
@click.option("--frames/--no-frames", default=True, help="Whether sliders move on the site.")
def main(names: tuple[str, ...], output: Path | None, frames: bool) -> None:
    """Build the book as a static site, from the committed notebooks.

    Without a NOTEBOOK it takes all that are written.
    """
    started = time.perf_counter()
    home = notebooks.home()
    output = output or home / "build" / "site"
    chosen = [catalog.notebook(name) for name in names] or catalog.notebooks()
    try:
        build(output, chosen, cache=home / "build" / "frames" if frames else None)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    seconds = time.perf_counter() - started
    click.echo(f"{output / 'index.html'}: {size / 1e6:.0f} MB in {seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
