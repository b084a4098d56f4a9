"""Launchers: where the cells of a study run.

One file per launcher; a new one is a class registered here, or in another package under the entry
point group ``alhpo.launchers``.
"""

from alhpo.studies.launch.in_process import InProcessLauncher
from alhpo.studies.launch.local import LocalLauncher
from alhpo.studies.launch.protocol import Launcher, LauncherClass
from alhpo.studies.launch.ray import RayLauncher
from alhpo.studies.launch.registry import launcher_names, make_launcher, register_launcher
from alhpo.studies.launch.threads import ThreadsLauncher

__all__ = ["Launcher", "LauncherClass", "launcher_names", "make_launcher", "register_launcher"]

register_launcher("in-process", InProcessLauncher)
register_launcher("local", LocalLauncher)
register_launcher("ray", RayLauncher)
register_launcher("threads", ThreadsLauncher)
