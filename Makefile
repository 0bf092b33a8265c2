# make train: environment, build and a first training run; make test: environment, build and all
# tests; make bench: the same and all measures, or those of MEASURES="NAME ..."; make lib:
# build/lib/libane.* and build/include/ane.h for C programs, without Python.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

SOURCES := $(shell find csrc -name '*.[chm]' -o -name '*.def' -o -name '*.txt')
FOLDERS := base engine cpu train
WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes

.PHONY: train test bench lib install lint format clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.built: $(BIN)/python pyproject.toml ane_train/_build.py $(SOURCES)
	$(BIN)/pip install -q -e .
	touch $@

$(VENV)/.tested: $(VENV)/.built
	$(BIN)/pip install -q torch==2.13.0
	$(BIN)/pip install -q -e '.[test]'
	touch $@

$(VENV)/.linted: $(BIN)/python
	$(BIN)/pip install -q clang-format==23.1.5 'mypy>=1.15' 'ruff>=0.11'
	touch $@

train: $(VENV)/.built
	$(BIN)/ane-train

test: $(VENV)/.tested
	$(BIN)/python -m pytest

bench: $(VENV)/.tested
	$(BIN)/python -m bench $(MEASURES)

lint: $(VENV)/.built $(VENV)/.linted
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $$(find csrc tests examples -name '*.[chm]')
	for source in $(C_SOURCES) $(wildcard examples/*.c); do \
		$(CC) -std=gnu11 $(WARNINGS) -Werror -Icsrc -fsyntax-only $$source || exit 1; done

# The library for C programs. csrc/apple is part of it on macOS alone.
BUILD   := build
PREFIX  ?= /usr/local
C_SOURCES := $(foreach folder,$(FOLDERS),$(wildcard csrc/$(folder)/*.c))
OBJECTS := $(C_SOURCES:csrc/%.c=$(BUILD)/obj/%.o)

ifeq ($(shell uname -s),Darwin)
CC      := xcrun clang
LIBRARY := libane.dylib
OBJECTS += $(patsubst csrc/%,$(BUILD)/obj/%.o,$(basename $(wildcard csrc/apple/*.[cm])))
LINK    := -dynamiclib -install_name @rpath/$(LIBRARY)
LIBS    := -framework Foundation -framework CoreFoundation -framework IOSurface
else
LIBRARY := libane.so
LINK    := -shared -Wl,-soname,$(LIBRARY) -Wl,-z,defs
LIBS    := -lm -ldl -lpthread
endif

lib: $(BUILD)/lib/$(LIBRARY) $(BUILD)/include/ane.h

$(BUILD)/lib/$(LIBRARY): $(OBJECTS)
	@mkdir -p $(@D)
	$(CC) $(LINK) $(LDFLAGS) $^ $(LIBS) -o $@

$(BUILD)/obj/%.o: csrc/%.c csrc/flags.txt
	@mkdir -p $(@D)
	$(CC) @csrc/flags.txt $(WARNINGS) -fPIC -Icsrc -MMD -MP $(CFLAGS) -c $< -o $@

$(BUILD)/obj/%.o: csrc/%.m csrc/flags.txt
	@mkdir -p $(@D)
	$(CC) @csrc/flags.txt $(WARNINGS) -fPIC -fobjc-arc -fobjc-arc-exceptions -Icsrc -MMD -MP $(CFLAGS) -c $< -o $@

$(BUILD)/include/ane.h: csrc/ane.h
	@mkdir -p $(@D)
	cp $< $@

install: lib
	install -d $(DESTDIR)$(PREFIX)/lib $(DESTDIR)$(PREFIX)/include
	install -m 755 $(BUILD)/lib/$(LIBRARY) $(DESTDIR)$(PREFIX)/lib
	install -m 644 $(BUILD)/include/ane.h $(DESTDIR)$(PREFIX)/include

-include $(OBJECTS:.o=.d)

format: $(VENV)/.linted
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(find csrc tests examples -name '*.[chm]')

clean:
	rm -rf $(VENV) build dist *.egg-info ane_train/_native*.so
