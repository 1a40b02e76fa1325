# make demo    install into .venv and run the whole way on real input, offline
# make test    install into .venv and run linter, type checker and tests
# make docs    install into .venv and build the site of docs/ into site/, offline
# make clean   remove .venv and the demo's folder

PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test docs clean

demo: .venv/demo
	$(BIN)/hnmine demo --out demo

test: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu"

docs: .venv/dev
	$(BIN)/python docs/tools/settings_page.py
	$(BIN)/sphinx-build -c docs/tools -d site/.doctrees --fail-on-warning --keep-going --quiet docs site
	@echo "open site/index.html"

clean:
	rm -rf .venv demo site

.venv/demo: pyproject.toml constraints.txt
	@$(call install,cpu$(comma)demo)

.venv/dev: pyproject.toml constraints.txt
	@$(call install,cpu$(comma)demo$(comma)dev)

comma := ,
define install
echo "installing hnmine[$(1)] into .venv; the first time takes a few minutes" && \
test -x $(BIN)/python || $(PYTHON) -m venv .venv && \
$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")' && \
$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(1)]' && \
touch $@
endef
