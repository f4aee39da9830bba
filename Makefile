# opdata: build, install and test with PGXS.
#
#   make            build the library against $(PG_CONFIG)
#   make install    install library, control file and SQL (as root)
#   make test       install what the tests need, build, install, run every test
#   make demo       the same, then a guided tour against a real source
#   make help       all targets

EXTENSION = opdata
MODULE_big = opdata

# Made by the protobuf-c compiler; every file that includes it waits for it.
PROTO = src/temporal/temporal
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/*/*.c) $(PROTO).pb-c.c))
DATA = $(sort $(wildcard sql/opdata--*.sql))

# Includes between rooms are written "room/file.h". PostgreSQL's headers are
# system headers to the compiler, which keeps -Wextra for our own code. Only
# names marked PGDLLEXPORT are exported; before 16 that macro is empty unless
# defined here.
PG_CPPFLAGS = -Isrc -I$(libpq_srcdir) -isystem $(includedir_server) \
	-DPGDLLEXPORT='__attribute__((visibility("default")))'

# A function called from SQL need not use fcinfo, nor a callback all its
# arguments: PostgreSQL's own style. -MMD writes the .d files included below.
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -fvisibility=hidden -MMD -MP

SHLIB_LINK = $(libpq) -lcurl -lprotobuf-c -lssl -lcrypto -lpthread -lm

# Bitcode for inlining by the JIT would need clang, and our functions are
# calls over the network. "make with_llvm=yes" builds it all the same.
ifneq ($(origin with_llvm),command line)
override with_llvm := no
endif

EXTRA_CLEAN = tmp_check $(OBJS:.o=.d) $(wildcard test/modules/*/*.[od] test/modules/*/*.so) $(PROTO).pb-c.c $(PROTO).pb-c.h

# On a fresh machine there is no pg_config yet: PGXS is empty then, and what
# can be made is "deps" and the targets that run it first.
PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)

.DEFAULT_GOAL := all
ifneq ($(PGXS),)
include $(PGXS)
-include $(OBJS:.o=.d)

$(OBJS): | $(PROTO).pb-c.h
$(PROTO).pb-c.c: $(PROTO).pb-c.h
$(PROTO).pb-c.h: $(PROTO).proto
	protoc-c --proto_path=src/temporal --c_out=src/temporal $<
else
all install:
	@echo "$(PG_CONFIG) was not found; \"make deps\" installs what is missing" >&2; exit 1
endif

# The harness runs the tests of this checkout with these programs.
export PG_CONFIG
HARNESS = test/harness

# TAP files to run: make check-tap PROVE_TESTS=test/t/030_tls.pl
# Several run at once; those that take longest go first.
LONG_TESTS = $(patsubst %,test/t/%.pl,080_worker_life 061_grpc 082_outage 102_identity 081_crash 105_faults 100_tls 071_local_steps 102_token_endpoint 117_locks 103_convex 114_key_life 113_suspend)
PROVE_TESTS ?= $(LONG_TESTS) $(filter-out $(LONG_TESTS),$(shell ls -r test/t/*.pl))

# Regression tests to run, in this order: make check-regress REGRESS_TESTS=00_install
REGRESS_TESTS ?= $(sort $(basename $(notdir $(wildcard test/sql/*.sql))))

.PHONY: help deps installed test check-regress check-tap check-readme inventory demo bench soak lint valgrind installcheck

help:
	@echo "all install clean   build with PGXS; PG_CONFIG=... chooses the server"
	@echo "test                deps, build, install, check-regress, check-tap"
	@echo "check-regress       SQL tests on a throwaway cluster (REGRESS_TESTS=...)"
	@echo "check-tap           Perl tests on throwaway clusters (PROVE_TESTS=...)"
	@echo "check-readme        run every example of README.md"
	@echo "inventory           write INVENTORY.md: all that leaves, from the code"
	@echo "demo                a guided tour on two throwaway clusters"
	@echo "bench               ratios against plain libpq, pgcrypto and a Node worker"
	@echo "soak                mixed jobs under mild faults, SOAK_MINUTES=30, with flat memory"
	@echo "lint                layers, symbols, rules, pgspot, gcc and clang analysers"
	@echo "valgrind            the SQL tests with the server under valgrind"
	@echo "deps                Debian 12 packages that build and tests need; check-tap and"
	@echo "                    demo build Temporal servers and fetch modules besides, once"

deps:
	$(HARNESS)/install-deps.sh build test

# After the deps, make starts over with a Makefile that finds pg_config.
test: deps
	$(MAKE) check-regress
	$(MAKE) check-tap

# The tests load the installed library: PostgreSQL knows one place for it.
installed: all
	if [ -w "$(DESTDIR)$(pkglibdir)" ]; then $(MAKE) install; \
	else sudo $(MAKE) install PG_CONFIG="$(PG_CONFIG)" with_llvm=$(with_llvm); fi

check-regress: installed
	$(HARNESS)/run-regress.sh $(REGRESS_TESTS)

check-tap: installed
	$(MAKE) -C test/modules/engine
	$(HARNESS)/install-temporal.sh
	$(HARNESS)/install-servers.sh
	$(HARNESS)/run-tap.sh $(PROVE_TESTS)

check-readme: installed
	$(HARNESS)/run-tap.sh test/t/900_readme.pl

# In two steps, so that a failure leaves the file alone.
inventory: installed
	$(HARNESS)/inventory.sh > INVENTORY.md.new
	mv INVENTORY.md.new INVENTORY.md

demo: deps
	$(MAKE) installed
	test/demo/run.sh

bench: deps
	$(MAKE) installed
	test/bench/run.sh
	test/bench/temporal/run.sh

soak: deps
	$(MAKE) installed
	$(HARNESS)/install-temporal.sh
	$(HARNESS)/install-servers.sh
	test/soak/run.sh

lint:
	$(HARNESS)/install-deps.sh build lint
	$(MAKE) all
	test/lint/run.sh

valgrind:
	$(HARNESS)/install-deps.sh build test valgrind
	$(MAKE) installed
	test/valgrind/run-valgrind.sh $(REGRESS_TESTS)

# PGXS would run this against the cluster at hand. Ours must not touch it, and
# needs shared_preload_libraries.
installcheck:
	@echo "opdata tests itself on throwaway clusters: use \"make test\""
