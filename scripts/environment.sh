# Sourced by the other scripts: makes the environment, and says where data and results are. Variables:
#   PYTHON              the Python that makes .venv when there is none (default: python3)
#   GAPL_PIP_INDEX_URL  a package index to use besides PyPI, for example one with CPU-only builds of torch
#   GAPL_DATA_ROOT      folder of the data sets (default: the demonstration corpus, built on first use)
#   GAPL_RUNS           folder of the results (default: runs, or runs/demo for the demonstration corpus)
#   GAPL_METHOD         how prototypes are made: kmeans (default) or pca
#   GAPL_NUM            number of prototypes (default: 64)
#   GAPL_TORCHRUN       options of torchrun, such as "--nproc-per-node 8", to train on several processes
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python

install() { # requirement files, in the versions of requirements.lock, into the environment of $python
    local venv=${python%/bin/python} file state
    if ! "$python" -m pip --version >/dev/null 2>&1; then  # none, or half made
        "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
            { echo "error: Python 3.11 or newer is needed; name one in PYTHON" >&2; exit 2; }
        echo "Making $venv"
        "${PYTHON:-python3}" -m venv "$venv"
        rm -f "$venv/installed.txt"
    fi
    state=$(cat requirements.lock requirements*.txt requirements/*.txt | cksum)
    for file in "$@"; do
        grep -qsxF "$state $file" "$venv/installed.txt" && continue
        echo "Installing $file"
        "$python" -m pip install --quiet --requirement "$file" --constraint requirements.lock \
            ${GAPL_PIP_INDEX_URL:+--extra-index-url "$GAPL_PIP_INDEX_URL"}
        echo "$state $file" >>"$venv/installed.txt"
    done
}

train() { # options of train.py
    if [ -n "${GAPL_TORCHRUN:-}" ]; then
        # shellcheck disable=SC2086 - it is several options
        "$python" -m torch.distributed.run $GAPL_TORCHRUN train.py "$@"
    else
        "$python" train.py "$@"
    fi
}

find_runs() { # options of the script
    case " $*" in *" --out"*) echo "error: name the folder of the results in GAPL_RUNS, not --out" >&2; exit 2 ;; esac
    demo=
    [ -n "${GAPL_DATA_ROOT:-}" ] || [[ " $*" == *" --data"* ]] || demo=/demo
    runs=${GAPL_RUNS:-runs$demo}
}

find_data() { # options of the script
    find_runs "$@"
    defaults=()
    demo_backbone=()
    if [ -n "$demo" ]; then
        export GAPL_DATA_ROOT=$runs/demo_corpus
        defaults=(--preset demo)
        demo_backbone=(--backbone clip-vit-b16-int8)
        [[ " $* " == *" --help "* ]] || [ -f "$GAPL_DATA_ROOT/demo.json" ] || "$python" -m data.demo --out "$GAPL_DATA_ROOT"
    fi
    bank=$runs/prototypes/${GAPL_METHOD:-kmeans}${GAPL_NUM:-64}.safetensors
}
