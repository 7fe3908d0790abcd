# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Kernels, kselftests and KUnit: configure, build, run.

# shellcheck source=scripts/lib/debian.sh
. "${BASH_SOURCE[0]%/*}/debian.sh"

kernel_reports=$repo/scripts/lib/kernel-reports	# for grep -f: the kernel is broken

# in the background, so that a signal for this script need not wait for it
apply_series() {
	"$repo/scripts/tree" apply &
	wait $! || die "the series does not apply: see above"
}

# kmake ARCH ARG...
kmake() { make -j"$jobs" ARCH="$1" "${@:2}"; }

# uml_fragments: what the kernel needs that runs the kselftests
uml_fragments() {
	printf '%s\n' "$repo/scripts/configs/kselftest" "$repo/scripts/configs/uml"
	kselftest_fragments
}
kselftest_fragments() {
	[[ ! -d $repo/selftests ]] || find "$repo/selftests" -name config | sort
}

# new_symbols: the configuration symbols that only the series has
new_symbols() {
	sed -n 's/^+\(menu\)\{0,1\}config \([A-Z0-9_]*\)$/CONFIG_\2/p' "$repo"/patches/*/*.patch
}

# configure_kernel ARCH TREE BUILD MODE FRAGMENT...: the fragments over the defaults. In
# mode "base" symbols that only the series has may be absent.
configure_kernel() {
	local arch=$1 tree=$2 out=$3 mode=$4 line absent=''
	shift 4
	mkdir -p "$out"
	{
		cat "$@"
		echo "# mode: ${mode:-all symbols}"	# one mode wants symbols that the other drops
	} >"$out/.config.want"
	if ! cmp -s "$out/.config.want" "$out/.config.had" || [[ ! -f $out/.config ]]; then
		rm -f "$out/.config.had"
		cp "$out/.config.want" "$out/.config"
	fi
	kmake "$arch" -C "$tree" O="$out" olddefconfig || return
	[[ $mode != base ]] || absent=" $(new_symbols | paste -sd' ') "
	while read -r line; do
		[[ $line == CONFIG_* ]] || continue
		[[ $absent != *" ${line%=*} "* ]] || continue
		case $line in
		*=n) ! grep -q "^${line%=n}=" "$out/.config" ;;
		*) grep -qxF -- "$line" "$out/.config" ;;
		esac || {
			echo "$line did not survive olddefconfig; it is from one of: $*"
			return 1
		}
	done <"$out/.config.want"
	cp "$out/.config.want" "$out/.config.had"
}

# build_kernel ARCH WHAT TREE BUILD LOG MODE FRAGMENT...: with modules; scripts/vm boots
# kernel_image ARCH BUILD, and loads the modules
build_kernel() {
	local arch=$1 what=$2 tree=$3 out=$4 file=$5 target=linux
	shift 5
	[[ $arch == um ]] || target=bzImage
	run "$what: configure" "$file" configure_kernel "$arch" "$tree" "$out" "$@" &&
		run "$what: build" "$file" kmake "$arch" -C "$tree" O="$out" "$target" modules
}
kernel_image() { if [[ $1 == um ]]; then echo "$2/linux"; else echo "$2/arch/x86/boot/bzImage"; fi; }

# --- the tree of the guests ---------------------------------------------------

# One kernel after the other is built from $guest, in one build directory, as most
# objects are the same.
git_guest() { git_fixed -C "$guest" "$@"; }
guest_clone() {
	clone_tree "$linux" "$guest" &&
		git_guest fetch -q --no-tags "$linux" +series:refs/guest/series +base:refs/guest/base
}
guest_checkout() { guest_clone && git_guest checkout -q -f --detach "$1"; }

# A tree for a guest is put together in a private index: the checkout changes once, and
# files that stay as they are keep their times.
in_index() { git_indexed "$work/guest.index" -C "$guest" "$@"; }
# index_begin COMMIT: begin with the files of that
index_begin() {
	rm -f "$work"/guest.index{,.lock}	# a killed run left them
	in_index read-tree "$1"
}
# index_checkout PARENT: check it out with the headers of the series. Most objects depend on
# these, and they only declare more; with others nearly everything would be built again.
index_checkout() {
	local headers tree
	mapfile -t headers < <(in_index diff --name-only refs/guest/base refs/guest/series -- include fs/internal.h mm/internal.h)
	in_index ls-tree refs/guest/series "${headers[@]}" | in_index update-index --add --index-info &&
		tree=$(in_index write-tree) &&
		git_guest checkout -q -f --detach "$(git_guest commit-tree -p "$1" -m 'for a guest' "$tree")"
}

# guest_without END [COMMIT | +NAME]...: check out END, a commit below the series,
# without the COMMITs, and with the mutants scripts/prove.d/NAME.diff. Beside the headers
# it has the test filesystem of the series.
guest_without() {
	local commit
	guest_clone && index_begin "$1" || return
	for commit in "${@:2}"; do
		case $commit in
		+*) in_index apply --cached "$repo/scripts/prove.d/${commit#+}.diff" ;;
		*) in_index diff "$commit~" "$commit" | in_index apply --cached --3way -R ;;
		esac || return
	done
	commit=$(git_guest log --format=%H --diff-filter=A refs/guest/base..refs/guest/series -- fs/tests/faultfs.c)
	in_index diff "$commit~" "$commit" | in_index apply --cached --3way && index_checkout "$1"
}

# build_uml WHAT DIR LOG [base]: the kernel of the kselftests from $guest as it is, and
# its modules, to DIR
build_uml() {
	local fragments out=$work/guest-build
	mapfile -t fragments < <(uml_fragments)
	rm -rf "$2"
	build_kernel um "$1" "$guest" "$out" "$3" "${4:-}" "${fragments[@]}" && collect_kernel "$out" "$2"
}
collect_kernel() {
	mkdir -p "$2"
	sed 's/o$/ko/' "$1/modules.order" | rsync -a --files-from=- "$1/" "$2/" &&
		cp "$1/modules.order" "$1/linux" "$2/"
}

# build_patched_uml: build the kernel with the series, to $kernel, where scripts/vm finds it
build_patched_uml() {
	run "copy the patched tree" "$log/guest" guest_checkout "$(git_tree rev-parse series)" &&
		build_uml "patched kernel" "$kernel" "$log/build"
}

# --- kselftests ---------------------------------------------------------------

# collections: the kselftests that the series adds
collections() {
	git_tree diff --name-only --diff-filter=A base series -- tools/testing/selftests |
		sed -n 's,^tools/testing/selftests/\(.*\)/Makefile$,\1,p' | paste -sd' '
}

# build_kselftests: to $ksft/install
build_kselftests() { run "build the kselftests" "$log/kselftest-build" make_kselftests; }
make_kselftests() {
	make -C "$linux" -j"$jobs" O="$work/headers" headers &&
		rm -rf "$ksft/install" &&
		make -C "$linux/tools/testing/selftests" -j"$jobs" O="$ksft" TARGETS="$(collections)" \
			KHDR_INCLUDES="-isystem $work/headers/usr/include" \
			INSTALL_PATH="$ksft/install" FORCE_TARGETS=1 install
}

programs() { sed 's/:/ /' "$ksft/install/kselftest-list.txt"; }

# run_program KERNEL CPUS OPERATIONS SECONDS COLLECTION PROGRAM OUT [ARG]...: run it in the
# guest, TAP and what scripts/vm says to OUT; returns what the guest returned. SECONDS
# may be empty: the timeout that the collection sets. The tests do 100000 operations and
# copy 2000 files when they are run by hand.
run_program() {
	local kernel=$1 cpus=$2 operations=$3 seconds=$4 dir=$ksft/install/$5 program=$6 out=$7 t
	shift 7
	t=$(sed -n 's/^timeout=//p' "$dir/settings" 2>/dev/null) || :
	seconds=$(within "${seconds:-$((${t:-45} + 60))}")
	quiet=yes run_for $((seconds + 700)) "guest: $program" "$out" "$repo/scripts/vm" --kernel "$kernel" \
		--mem 2G --cpus "$cpus" --timeout "$seconds" --console "$out.console" -- \
		env -C "$dir" LOOP_TEST_FAULTS=1 LOOP_TEST_CYCLES=1000 LOOP_TEST_TREE="$linux/Documentation" \
		LOOP_TEST_FILES=500 LOOP_TEST_OPS="$operations" NTFS_TEST_ROUNDS=6000 UNITS_TEST_ROUNDS=6000 "./$program" "$@"
}

# --- KUnit --------------------------------------------------------------------

# kunit_tree: the copy of the patched tree that KUnit is built from, apart from $linux:
# the mutants change it, and the build stays warm
kunit_tree() { run "copy the patched tree" "$log/kunit-tree" kunit_checkout; }
kunit_checkout() {
	clone_tree "$linux" "$kunit_linux" &&
		git_fixed -C "$kunit_linux" fetch -q --no-tags "$linux" series &&
		git_fixed -C "$kunit_linux" checkout -q -f --detach FETCH_HEAD
}

# kunit_py build|exec [OPTION]...: kunit.py on that copy; "run" is both
kunit_py() {
	local cmd=$1 options=(--kunitconfig="$repo/.kunitconfig" --jobs="$jobs")
	local machine=(--kernel_args=seccomp=on --kernel_args=ncpus=4 --kernel_args=slab_debug=FZPU)
	shift
	case $cmd in
	build) set -- "${options[@]}" "$@" ;;
	exec) set -- "${machine[@]}" "$@" ;;
	run) set -- "${options[@]}" "${machine[@]}" "$@" ;;
	esac
	mkdir -p "$work/kunit"
	python3 "$kunit_linux/tools/testing/kunit/kunit.py" "$cmd" --build_dir="$work/kunit" "$@"
}

# without_kvm COMMAND...: kunit.py would use /dev/kvm, which hangs on some machines that
# are guests themselves. In a chroot it cannot be hidden.
without_kvm() {
	# shellcheck disable=SC2016 # sh expands it
	if [[ -e /dev/kvm ]] && unshare -rm true 2>/dev/null; then
		unshare -rm sh -c 'mount --bind /dev/null /dev/kvm && exec "$@"' sh "$@"
	else
		"$@"
	fi
}

# Debian's sparse does not know two builtins that the kernel uses since 6.15 and 7.0;
# kbuild refuses it for the first, and stops warning after an error because of the second
sparse_wrapper() {
	cat >"$work/check.sparse" <<-'EOT'
		#!/bin/sh
		exec sparse -D__typeof_unqual__=__typeof__ '-D__builtin_strlen(x)=(sizeof(x)-1)' "$@"
	EOT
	chmod +x "$work/check.sparse"
}
