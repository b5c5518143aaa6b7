#!/usr/bin/env bash
# What can be proven only with a GPU, in stages that each end within the minutes given to them.
#
#   tests/gpu/accept.sh STAGE [--device cuda|cpu] [--out DIR] [--colac PATH] [--minutes N] [--only PATTERN]
#
#   conformance   every operation against the reference, training beside the CPU, equal bits, compute-sanitizer
#   bench         tokens/s, share of the products' rate, memory and time as predicted and as they are
#   peer          the same models in PyTorch, interleaved with ours
#   quality       CoLA and full-rank trained on the shipped corpus
#   table         the stages' results in DIR as one Markdown table, on stdout
#
# A stage writes DIR/STAGE.json after every row and all commands with their output to DIR/STAGE.log. A row that no
# longer fits the minutes is left out, and said so. --only runs the rows whose names match a regular expression.
# Needs the release binary, this repository's files and python3, with torch for `peer` and the products' rate; PYTHON
# names another one. --device cpu runs every stage small, to try the script: its numbers say nothing about a GPU.
# Exits with 1 if a row failed, with 2 for a wrong command line.
set -euo pipefail

usage() {
    sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
    exit 2
}

wrong() {
    echo "error: $1" >&2
    exit 2
}

[ "$#" -gt 0 ] || usage
stage=$1
shift
case $stage in
    conformance | bench | peer | quality | table) ;;
    -h | --help) usage ;;
    *) wrong "there is no stage '$stage': write conformance, bench, peer, quality or table" ;;
esac

device=cuda
out=target/gpu
colac=target/release/colac
minutes=8
only=.
while [ "$#" -gt 0 ]; do
    [ "$#" -gt 1 ] || wrong "$1 needs a value"
    case $1 in
        --device) device=$2 ;;
        --out) out=$2 ;;
        --colac) colac=$2 ;;
        --minutes) minutes=$2 ;;
        --only) only=$2 ;;
        *) wrong "there is no option '$1'" ;;
    esac
    shift 2
done
case $device in
    cuda | cpu) ;;
    *) wrong "--device takes cuda or cpu, not '$device'" ;;
esac
[[ $minutes =~ ^[0-9]+(\.[0-9]+)?$ ]] || wrong "--minutes takes a number, not '$minutes'"

# Paths on the command line start where the command is given; those of the stages start at the repository.
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-python3}
command -v "$python" >/dev/null || wrong "there is no $python: set PYTHON"
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
if [ "$stage" = table ]; then
    exec "$python" "$scripts/table.py" "$out"
fi

[ -x "$colac" ] || wrong "$colac is not there: build it by 'cargo build --release', or name it with --colac"
colac=$(cd "$(dirname "$colac")" && pwd)/$(basename "$colac")
cd "$scripts/../.."
exec "$python" "$scripts/$stage.py" --device "$device" --out "$out" --colac "$colac" --minutes "$minutes" --only "$only"
