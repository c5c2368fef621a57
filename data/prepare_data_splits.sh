#!/usr/bin/env bash
# Splits of a code dataset for training: one folder with all tasks and one folder per task, as JSON and parquet.
set -euo pipefail

usage() {
    cat >&2 <<'USAGE'
usage: [MY_DATA_SPLITS_DIR=DIR] [MY_DATA_SINGLES_DIR=DIR] bash data/prepare_data_splits.sh DATA.json

  DATA.json             code tasks, written by data/load_dataset.py
  MY_DATA_SPLITS_DIR    folder of all tasks (my_data_splits_dir): train has half of each task's tests, test has all
  MY_DATA_SINGLES_DIR   folder of one folder q_{idx} per task (my_data_singles_dir): the same for that task alone
  PYTHON                interpreter (python)
USAGE
    exit 2
}

[[ $# -eq 1 && $1 != -* ]] || usage
[[ -f $1 ]] || { echo "error: $1 does not exist." >&2; usage; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python}
splits=${MY_DATA_SPLITS_DIR:-my_data_splits_dir}
singles=${MY_DATA_SINGLES_DIR:-my_data_singles_dir}

"$python" "$here/split_tests.py" --json-path "$1" --output-dir "$splits" --singles-dir "$singles"
"$python" "$here/preprocess.py" --data-source "$splits" "$singles"/q_*/
