#!/usr/bin/env bash
# Any Linux box with GPUs that one reaches by SSH (Lambda, RunPod, Paperspace, …): sets it up, runs a recipe there, shows
# what it tells, and ends as the recipe's command ends there.
#
#     bash images/box.sh USER@HOST RECIPE [VERB]
#
# VERB is one of tuneline's, `run` unless told otherwise. The same command again goes on: what is set up stays, a command
# that is under way is followed, a run that was stopped goes on from its last checkpoint. Ctrl-C here stops nothing there.
#
#     BOX_DIR      folder there, on a disk that outlives a spot machine; ~/tuneline (on RunPod: /workspace/tuneline)
#     BOX_SSH      more words for ssh, as in '-p 2222 -i key'
#     TORCH_INDEX  where PyTorch comes from, if the box's driver does not run PyPI's build (CUDA 13.0)
#     TORCH_LOCK   file in this folder with that build's hash; requirements/torch.txt says more
#     TUNELINE_USD_PER_HOUR  what the box costs, so that compute.max_cost_usd counts; HF_TOKEN, WANDB_API_KEY: passed on
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 2 ] && [ -f "$2" ] || { sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2; }
host=$1 recipe=$2 verb=${3:-run} dir=${BOX_DIR:-tuneline}
git ls-files -co --exclude-standard -- "$recipe" 2>/dev/null | grep -q . || {
    echo "box: $recipe: not in this folder, or ignored by git: it would not be copied" >&2
    exit 2
}
there() { ssh ${BOX_SSH:-} "$host" "$@"; }

echo "box: copying this folder to $host:$dir"
git ls-files -zco --exclude-standard |
    while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done |
    tar --null -T - -czf - |
    there "mkdir -p $dir && tar -xzf - -C $dir"

# By standard input: words of a command, and with them the secrets, anybody there could read.
{
    for name in HF_TOKEN WANDB_API_KEY WANDB_MODE TUNELINE_USD_PER_HOUR; do
        [ -z "${!name:-}" ] || printf 'export %s=%q\n' "$name" "${!name}"
    done
    printf 'cd %s; recipe=%q verb=%q index=%q lock=%q\n' "$dir" "$recipe" "$verb" "${TORCH_INDEX:-}" "${TORCH_LOCK:-}"
    cat <<'THERE'
set -euo pipefail
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,memory.total --format=csv,noheader || echo "box: no GPU here"
if ! [ -e .venv/.ready ]; then
    root=$([ "$(id -u)" = 0 ] || echo sudo)
    command -v make g++ >/dev/null || { $root apt-get update -q && $root apt-get install -yq build-essential; }
    enough='import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'
    for python in python3.12 python3.13 python3.11 python3 ""; do
        [ -z "$python" ] || { "$python" -c "$enough" && "$python" -c 'import ensurepip'; } 2>/dev/null && break
    done
    if [ -z "$python" ]; then # Ubuntu 22.04 has 3.10
        python3 -m pip install --quiet --user --require-hashes -r requirements/uv.txt && python3 -m uv python install --quiet 3.12
        python=$(python3 -m uv python find 3.12)
    fi
    make setup PYTHON="$python" TORCH_INDEX="$index" TORCH_LOCK="$lock"
fi
case $verb in run | convert | evaluate) make --quiet llama ;; esac
exec 9>.box.lock
flock 9 # the same command from two places starts one run
if [ -e .box.pid ] && kill -0 "$(cat .box.pid)" 2>/dev/null; then
    echo "box: under way already, since $(date -r .box.pid)"
else
    rm -f .box.code
    : >.box.log # here: what is started may come to its own redirection after the `tail` below looked for the file
    setsid nohup bash -c '.venv/bin/tuneline "$0" "$1"; echo $? >.box.code' "$verb" "$recipe" >>.box.log 2>&1 </dev/null 9>&- &
    echo $! >.box.pid
fi
exec 9>&-
tail -n +1 -f --pid="$(cat .box.pid)" .box.log
exit "$(cat .box.code 2>/dev/null || echo 1)"
THERE
} | there bash -s && code=0 || code=$?
echo "box: ended with $code; its runs are in $host:$dir/.runs"
exit $code
