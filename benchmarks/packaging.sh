#!/usr/bin/env bash
# Builds wheel and sdist, and uses the wheel as a user would: in a fresh environment with the base dependencies only, then
# with each extra alone. `make package` runs it. About 10 minutes and 4 GB in $WORK; pip needs its package index.
#
#   benchmarks/packaging.sh                 everything
#   benchmarks/packaging.sh serve web       these extras only
#   REUSE=1 benchmarks/packaging.sh         with the wheel and the base environment of an earlier run
set -euo pipefail

ROOT=$(cd "$(dirname "$0")/.." && pwd)
WORK=${WORK:-/tmp/imgtf-packaging}
PYTHON=${PYTHON:-python3}
TORCH=${TORCH:-torch==2.13.0}  # of constraints.txt
EXTRAS=${*:-bench compress demo docs fid formats plot remote serve text web}
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT="$ROOT/constraints.txt"
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

SMALL_TOKENIZER="--steps 4 --batch-size 4 --image-size 16 --width 8 --multipliers 1,2 --latent-width 8 --norm-groups 4
  --codebook-size 16 --codebook-dim 4"
SMALL_PRIOR="--steps 4 --batch-size 4 --width 32 --depth 1 --heads 2"

say() { printf '\n== %s\n' "$*"; }

if [ -z "${REUSE:-}" ]; then
rm -rf "$WORK" && mkdir -p "$WORK/source" && cd "$WORK"
say "wheel and sdist"
(cd "$ROOT" && git ls-files -z | xargs -0 tar c --ignore-failed-read 2>/dev/null) | tar x -C source
$PYTHON -m venv build && build/bin/pip install -q build
build/bin/python -m build -q --outdir dist source > build.log 2>&1 || { cat build.log; exit 1; }
! grep -i "warning" build.log
WHEEL=$(ls "$WORK"/dist/*.whl)
$PYTHON - "$WHEEL" "$WORK"/dist/*.tar.gz source <<'PY'
import sys, tarfile, zipfile
from pathlib import Path

wheel, sdist, source = sys.argv[1:]
names = set(zipfile.ZipFile(wheel).namelist())
inside = {n.partition("/")[2] for n in tarfile.open(sdist).getnames()}
out = {"tests", "benchmarks", "docs", "notebooks", "build"}
code = {p.relative_to(source).as_posix() for p in Path(source).rglob("*.py")}
code = {n for n in code if n.split("/")[0] not in out and n != "setup.py"}
data = {"py.typed", "prior/presets.toml", "tokenizer/presets.toml", "pipelines/page-templates/page.html"}
assert not (missing := {f"imgtf/{n}" for n in code | data} - names), f"not in the wheel: {sorted(missing)}"
assert not (missing := (code | data) - inside), f"not in the sdist: {sorted(missing)}"
assert not (extra := {n for n in names if n.split("/")[1] in out}), f"in the wheel: {sorted(extra)}"
assert not (extra := {n for n in inside if n.split("/")[0] in out}), f"in the sdist: {sorted(extra)}"
print(f"{len(code)} modules; wheel {Path(wheel).stat().st_size:,} bytes, sdist {Path(sdist).stat().st_size:,} bytes")
PY

say "base dependencies only"
$PYTHON -m venv base
base/bin/pip install -q "$TORCH" "$WHEEL"
base/bin/pip check
fi

cd "$WORK"
WHEEL=$(ls "$WORK"/dist/*.whl)
rm -rf env-* images model digits plotted captioned clip formats one.* pipx pipx-home
base/bin/python - <<'PY'
from PIL import Image, ImageDraw
from pathlib import Path

for i in range(24):
    image = Image.new("RGB", (24, 24), (255 - 9 * i, 10 * i, 90))
    ImageDraw.Draw(image).ellipse((i % 5, 2, 16 + i % 7, 20), fill=(i * 7, 200, 255 - i))
    path = Path("images") / ("round" if i % 2 else "flat") / f"{i}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
PY
imgtf() { base/bin/imgtf "$@"; }
imgtf --version
imgtf --help > /dev/null
if imgtf tokenizer train --model digits --steps 1 2> error.txt; then echo "the digits need no extra?"; exit 1; fi
grep 'imgtf\[demo\]' error.txt
imgtf data images --report data.html --force > /dev/null
imgtf tokenizer train --data images $SMALL_TOKENIZER --model model 2> log.txt
imgtf prior train $SMALL_PRIOR --model model 2>> log.txt
imgtf sample --n 4 --label round --model model 2>> log.txt
grep 'imgtf\[plot\]' log.txt | sed -n 1,1p
imgtf tokenizer eval --model model 2>> log.txt | sed -n 1,3p
imgtf info model | tail -1
base/bin/python -c 'import lpips' 2>/dev/null && echo "lpips imports directly" || echo "lpips needs import_with_torchvision"
base/bin/python -c 'from imgtf.runtime.optional import import_with_torchvision as i; print(i("lpips").__name__, "imported")'
test -s model/report.html -a -s model/samples/001/grid.png -a -s data.html

# An environment of one extra sees the packages of the base environment.
with_extra() {
  $PYTHON -m venv "$WORK/env-$1"
  local site; site=$("$WORK/env-$1/bin/python" -c 'import site; print(site.getsitepackages()[0])')
  echo "$(cd base && bin/python -c 'import site; print(site.getsitepackages()[0])')" > "$site/base.pth"
  "env-$1/bin/pip" install -q "imgtf[$1] @ file://$WHEEL"
  "env-$1/bin/python" -m pip check > /dev/null || "env-$1/bin/python" -m pip check
}

# Ask an address until it answers.
wait_for() { for _ in $(seq 60); do curl -fsS "$1" > /dev/null 2>&1 && return; sleep 1; done; cat server.log; return 1; }

use_bench() { imgtf bench --parts sampling --rounds 1 --model model 2> /dev/null | tail -5; }
use_compress() {
  imgtf compress images/flat/0.png --out one.imgtf --model model
  imgtf decompress one.imgtf --out one.png --model model
}
use_demo() { imgtf tokenizer train $SMALL_TOKENIZER --model digits 2> /dev/null; }
use_docs() { (cd source && NO_MKDOCS_2_WARNING=1 "$WORK/env-docs/bin/mkdocs" build -q --strict --site-dir "$WORK/site" && ls "$WORK/site/index.html"); }
use_fid() {
  "env-fid/bin/python" -c 'from imgtf.runtime.optional import import_with_torchvision as i; print(i("torch_fidelity").__version__)'
  imgtf tokenizer eval --model model 2>&1 | grep -i "rfid\|inception" | sed -n 1,2p || true
}
use_formats() {
  "env-formats/bin/python" -c '
import pillow_heif, pillow_jxl
from PIL import Image
pillow_heif.register_heif_opener()
image = Image.open("images/flat/0.png")
image.save("one.heic"), image.save("one.jxl")'
  imgtf tokenizer reconstruct one.heic one.jxl --out formats --model model
}
use_plot() {
  imgtf tokenizer train --data images $SMALL_TOKENIZER --model plotted 2> /dev/null
  ls plotted/training/tokenizer/curves.png
}
use_remote() {
  "env-remote/bin/python" -c 'import fsspec; [print(n, fsspec.get_filesystem_class(n).__name__) for n in ("http", "s3", "gs")]'
  tar cf images.tar -C images/flat .
  base/bin/python -m http.server 8765 --bind 127.0.0.1 > server.log 2>&1 & local server=$!
  wait_for http://127.0.0.1:8765/images.tar
  imgtf data http://127.0.0.1:8765/images.tar 2> /dev/null | sed -n 1,3p; kill $server
}
use_serve() {
  imgtf serve model --port 8766 > server.log 2>&1 & local server=$!
  wait_for http://127.0.0.1:8766/health
  curl -fsS http://127.0.0.1:8766/health; echo; kill $server; wait $server || true
}
use_text() {
  "env-text/bin/python" - <<'PY'
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from imgtf.pipelines.text import import_transformers

transformers = import_transformers()
words = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", "a", "round", "flat"])}
plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
plain.pre_tokenizer = pre_tokenizers.Whitespace()
plain.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
marks = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
transformers.PreTrainedTokenizerFast(tokenizer_object=plain, **marks).save_pretrained("clip")
config = transformers.CLIPTextConfig(
    vocab_size=7, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
    max_position_embeddings=9, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)
transformers.CLIPTextModel(config).save_pretrained("clip")
PY
  for file in images/*/*.png; do echo "a $(basename "$(dirname "$file")")" > "${file%.png}.txt"; done
  rm -rf captioned
  cp -r model captioned && rm -r captioned/prior captioned/codes captioned/training/prior
  imgtf prior train --data images $SMALL_PRIOR --conditions features --text-encoder clip --model captioned 2> /dev/null
  imgtf sample --n 2 --text "a round" --model captioned 2> /dev/null
}
use_web() {
  imgtf web model --port 8767 > server.log 2>&1 & local server=$!
  wait_for http://127.0.0.1:8767/
  curl -fsS http://127.0.0.1:8767/ | grep -io gradio | sort -u; kill $server; wait $server || true
}

failed=""
for extra in $EXTRAS; do
  say "extra $extra"
  with_extra "$extra"
  imgtf() { "env-$extra/bin/python" -m imgtf "$@"; }
  set +e  # bash would not stop at an error on the left of ||
  ( set -e; "use_$extra" )
  test $? = 0 || failed="$failed $extra"
  set -e
done

say "pipx"
$PYTHON -m venv pipx && pipx/bin/pip install -q pipx
PIPX_HOME="$WORK/pipx-home" pipx/bin/pipx run --pip-args="--constraint $PIP_CONSTRAINT" --spec "$WHEEL" imgtf --version

if [ -n "$failed" ]; then say "failed:$failed"; else say "done: everything ran"; fi
test -z "$failed"
