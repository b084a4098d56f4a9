"""``alhpo cache``."""

from __future__ import annotations

import time

import click


@click.command()
@click.option("--clean", is_flag=True, help="Empty the cache.")
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="DAYS",
    help="With --clean: keep images that were used in the last DAYS days.",
)
def cache(clean: bool, older_than: float) -> None:
    """Show or clean the cache of decoded images.

    Image files are decoded once; all runs and processes share the result. The cache is the folder
    ALHPO_CACHE (by default ~/.cache/alhpo/cache) and takes at most ALHPO_CACHE_GIB (50 by default):
    the images that were used longest ago are removed first. Emptying it loses nothing: the image
    files are decoded again.
    """
    from alhpo.data.cache import cache_folder, cache_limit, cached_images, clean_cache

    if older_than and not clean:
        raise click.UsageError("--older-than needs --clean.")
    if clean:
        click.echo(f"{cache_folder()}: {_size(clean_cache(older_than))} freed.")
        return
    entries = cached_images()
    for entry in entries:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        click.echo(f"{_size(entry.size):>10}  used {used}  {entry.images}")
    total = sum(entry.size for entry in entries)
    click.echo(f"{cache_folder()}: {_size(total)} of {_size(cache_limit())}.")


def _size(count: int) -> str:
    amount = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"
