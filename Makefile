# Thin front of Meson. `make` leaves the programs in build/.
#
#   make [BUILD=default|release|debug|asan|tsan|fuzz] [CC=clang]
#   make run, check, bench, install, lint, format, fresh, fuzz, clean
BUILD ?= default
DIR := $(if $(filter default,$(BUILD)),build,build-$(BUILD))
NINJA ?= ninja

FLAGS_default :=
FLAGS_release := --buildtype=release -Db_ndebug=false -Dstrip=true
FLAGS_debug   := --buildtype=debug -Doptimization=0
FLAGS_asan    := -Db_sanitize=address,undefined -Db_lundef=false -Doptimization=1
FLAGS_tsan    := -Db_sanitize=thread -Db_lundef=false -Doptimization=1
FLAGS_fuzz    := -Db_sanitize=address,undefined -Db_lundef=false -Doptimization=2
ifeq ($(filter $(BUILD),default release debug asan tsan fuzz),)
$(error BUILD=$(BUILD) should be default, release, debug, asan, tsan or fuzz)
endif

.PHONY: all run check bench install lint format fresh fuzz guest clean
all: $(DIR)/.built

$(DIR)/build.ninja:
	@meson setup $(DIR) $(FLAGS_$(BUILD)) >$(DIR).setup.log 2>&1 || \
	    { grep -E 'ERROR|not found' $(DIR).setup.log || tail -n 20 $(DIR).setup.log; \
	      rm -rf $(DIR) $(DIR).setup.log; exit 1; }
	@mv $(DIR).setup.log $(DIR)/setup.log

# Ninja knows what is out of date; it need not say that nothing is.
.PHONY: $(DIR)/.built
$(DIR)/.built: $(DIR)/build.ninja
	@$(NINJA) -C $(DIR) -n | grep -q 'no work to do' || $(NINJA) -C $(DIR)

guest:
	@image/make-guest

run:
	@./run $(ARGS)

check:
	@./check $(ARGS)

bench: all
	@tools/bench.sh $(DIR)

install: all
	@meson install -C $(DIR) --no-rebuild

lint:
	@tools/lint.sh all

format:
	@tools/lint.sh reformat

fresh:
	@tools/fresh.sh

# Runs every fuzz target on N new random inputs.
N ?= 200000
fuzz:
	@$(MAKE) -s BUILD=fuzz all
	@tools/fuzz.sh build-fuzz $(N)

clean:
	rm -rf build build-release build-debug build-asan build-tsan build-fuzz
