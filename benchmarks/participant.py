"""Time and memory of one participant, by step, and of a second run that reuses everything.

    python benchmarks/participant.py BIDS_DIR --participant-label ljub01 --nprocs 2

Prints one table; nothing is kept unless --out is given.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pandas as pd
import psutil

# Steps, figures and outputs that there are for visits together alone.
BETWEEN_VISITS = (
    '^midpoint |_candidates |_new_?lesions |_self_?check |^changes |^all_|since|'
    'draw_(?:flicker|visits|candidate|detected|newlesions|changemap|selfcheck)'
)


def run_msapp(arguments: list[str]) -> tuple[float, float, float]:
    """Run msapp; return wall s, CPU s of it and its workers, and peak proportional memory MB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    program = 'from msapp.cli.app import main; raise SystemExit(main())'
    process = subprocess.Popen(
        [sys.executable, '-c', program, *arguments], stdout=subprocess.DEVNULL
    )
    peak_mb, done = [0.0], threading.Event()

    def sample() -> None:
        """Add up the memory of all processes, shared pages counted once."""
        while not done.wait(0.5):
            try:
                root = psutil.Process(process.pid)
                family = [root, *root.children(recursive=True)]
                used = sum(member.memory_full_info().pss for member in family) / 2**20
                peak_mb[0] = max(peak_mb[0], used)
            except psutil.Error:
                continue

    watcher = threading.Thread(target=sample)
    watcher.start()
    code = process.wait()
    wall_s = time.monotonic() - start
    done.set()
    watcher.join()
    if code:
        raise SystemExit(f'msapp ended with {code}')
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall_s, cpu_s, peak_mb[0]


def read_steps(out: Path) -> pd.DataFrame:
    """Read the first run's timings."""
    log = sorted((out / 'logs').iterdir())[0]
    return pd.read_csv(log / 'timings.tsv', sep='\t', na_values='n/a')


def add_up(table: pd.DataFrame) -> pd.DataFrame:
    """Add timings up by kind of step."""
    kind = table['step'].str.replace(
        r'^(ses-\S+?|midpoint)(_fit|_lesions|_candidates)?[ _]', '', regex=True
    )
    kind = kind.str.replace(r'^(draw|save)_.*', r'\1', regex=True)
    kind = kind.str.replace(r'_(FLAIR|T1w|T2w|ceT1w)$', '', regex=True)
    grouped = table.groupby(kind.rename('kind')).agg(
        n=('step', 'size'),
        wall_s=('wall_s', 'sum'),
        cpu_s=('cpu_s', 'sum'),
        peak_rss_mb=('peak_rss_mb', 'max'),
    )
    return grouped.sort_values('wall_s', ascending=False)


def main() -> None:
    """Run twice and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('bids_dir')
    parser.add_argument('--participant-label', required=True)
    parser.add_argument('--nprocs', type=int, default=2)
    parser.add_argument('--out', type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = given.out or Path(temporary) / 'out'
        arguments = [given.bids_dir, str(out), 'participant', '--nprocs', str(given.nprocs)]
        arguments += ['--participant-label', given.participant_label, '--skip-bids-validation']
        for name in ('first run', 'second run (resumed)'):
            wall_s, cpu_s, peak_mb = run_msapp(arguments)
            print(f'{name}: wall {wall_s:.1f} s, CPU {cpu_s:.1f} s, peak memory {peak_mb:.0f} MB')
        table = read_steps(out)
        between = table[table['step'].str.contains(BETWEEN_VISITS, regex=True)]
        print(
            f'between visits: {len(between)} steps, added up wall {between["wall_s"].sum():.1f} s, '
            f'CPU {between["cpu_s"].sum():.1f} s'
        )
        print(add_up(table).round(1).to_string())


if __name__ == '__main__':
    main()
