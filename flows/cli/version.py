"""`rlhf --version`: the version of the project, of its code, and of the locked requirements."""

import typer


def show(wanted: bool) -> None:
    """Print the version, the code's commit or digest, and the lock's digest; then end."""
    if not wanted:
        return
    from flows.platform.doctor_packages import lock_files
    from rlhf_core import __version__
    from rlhf_core.digest import digest_file
    from tasks.records.provenance import git_state
    from tasks.records.shipped import code_files_digest

    commit, dirty = git_state()
    if "+" in commit:
        code = f"files sha256:{code_files_digest()}"
    else:
        code = f"commit {commit}{', with uncommitted changes' if dirty else ''}"
    print(f"rlhf-pipeline {__version__}\n{code}")
    for lock in lock_files():
        print(f"lock {lock.name} sha256:{digest_file(lock)}")
    raise typer.Exit
