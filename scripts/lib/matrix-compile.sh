# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Configurations of scripts/matrix that only have to compile.

# shellcheck source=scripts/lib/self.sh
. "${BASH_SOURCE[0]%/*}/self.sh"

config='' said=''

all_symbols() { { echo "$repo/scripts/configs/kselftest"; kselftest_fragments; } | xargs -rd '\n' cat | sed 's/=m$/=y/'; }

# compiles ARCH PREFIX DEFCONFIG [all] [SYMBOL=VALUE]...: the files that the series touches
# and that are configured, without new warnings of W=1 or sparse; "all" are the symbols of
# the kselftests
compiles() {
	local arch=$1 prefix=$2 out=$work/matrix/$config file=$log/matrix.$config objects warned
	mkdir -p "$out"
	run "$config: configure" "$file.config" configure_objects "$out" "$@" ||
		{ not_ok "$config: cannot be configured: $file.config"; return; }
	objects=$(objects_of_series "$out")
	run "$config: compile" "$file" make_objects "$out" "$arch" "$prefix" "$objects" || not_ok "$config: does not compile: see $file"
	said="$(wc -w <<<"$objects") objects"
	warnings_of_series "$file" >"$file.found"
	if [[ -s $file.found ]]; then	# are these new?
		git_fixed -C "$kunit_linux" checkout -q -f --detach "$(git_tree rev-parse base)"
		try "$config: compile without the series" "$file.base" make_objects "$out" "$arch" "$prefix" "$(objects_of_series "$out")" || :
		kunit_checkout
		warned=$(warnings_of_series "$file.base" | sed 's/:[0-9]*/:/g')
		awk -v known="$warned" 'BEGIN { n = split(known, a, "\n"); while (n) old[a[n--]] }
			{ line = $0; gsub(/:[0-9]+/, ":", line) } !(line in old)' "$file.found" >"$file.new"
		mv "$file.new" "$file.found"
	fi
	expect_empty "$config: compiles, no new warnings" "$file.found"
}

files_of_series() { git_tree diff --name-only --diff-filter=d base series -- '*.c' '*.h' ':!tools'; }
warnings_of_series() {
	sed "s,$kunit_linux/,," "$1" | grep -E 'warning:|error:' | grep -F -f <(files_of_series) || :
}

# make_objects BUILD ARCH PREFIX OBJECTS
make_objects() {
	local checker=$work/check.sparse
	[[ $2 != riscv ]] || checker=true	# sparse 0.6.4 knows too few of its -march
	xargs make -j"$jobs" -s -C "$kunit_linux" ARCH="$2" O="$1" CROSS_COMPILE="$3" W=1 C=2 CHECK="$checker" <<<"$4"
}

# configure_objects BUILD ARCH PREFIX DEFCONFIG [all] [SYMBOL=VALUE]...
configure_objects() {
	local out=$1 arch=$2 prefix=$3 symbol
	kmake "$arch" -s -C "$kunit_linux" O="$out" CROSS_COMPILE="$prefix" "$4" || return
	for symbol in "${@:5}"; do
		if [[ $symbol == all ]]; then all_symbols; else echo "CONFIG_$symbol"; fi
	done >>"$out/.config"
	kmake "$arch" -s -C "$kunit_linux" O="$out" CROSS_COMPILE="$prefix" olddefconfig prepare
}

# objects_of_series BUILD: of the files of the series those that are there, and that the
# configuration builds
objects_of_series() {
	local f
	while IFS= read -r f; do
		[[ $f == *.c && -f $kunit_linux/$f ]] || continue
		case $f in
		arch/um/*) grep -q "^CONFIG_UML=" "$1/.config" ;;
		drivers/block/loop.c) grep -q "^CONFIG_BLK_DEV_LOOP=" "$1/.config" ;;
		fs/user_window.c) grep -q "^CONFIG_USER_WINDOW=" "$1/.config" ;;
		fs/tests/faultfs.c) grep -q "^CONFIG_TEST_FAULTFS=" "$1/.config" ;;
		mm/folio_lock_debug.c) grep -q "^CONFIG_DEBUG_FOLIO_LOCK=" "$1/.config" ;;
		mm/tests/folio_lock_debug*) grep -q "^CONFIG_FOLIO_LOCK_DEBUG_KUNIT_TEST=" "$1/.config" ;;
		fs/tests/*) grep -q "^CONFIG_USER_WINDOW_KUNIT_TEST=" "$1/.config" ;;
		fs/btrfs/*) grep -q "^CONFIG_BTRFS_FS=" "$1/.config" ;;
		mm/tests/*) grep -q "^CONFIG_KUNIT=" "$1/.config" ;;
		fs/ntfs/wof.c) grep -q "^CONFIG_NTFS_FS_WOF_COMPRESSION=" "$1/.config" ;;
		fs/ntfs/*) grep -q "^CONFIG_NTFS_FS=" "$1/.config" ;;
		fs/ntfs3/*) grep -q "^CONFIG_NTFS3_FS=" "$1/.config" ;;
		fs/ocfs2/*) grep -q "^CONFIG_OCFS2_FS=" "$1/.config" ;;
		fs/squashfs/*) grep -q "^CONFIG_SQUASHFS=" "$1/.config" ;;
		fs/f2fs/compress.c) grep -q "^CONFIG_F2FS_FS_COMPRESSION=" "$1/.config" ;;
		fs/f2fs/*) grep -q "^CONFIG_F2FS_FS=" "$1/.config" ;;
		esac || continue
		printf '%s\n' "${f%c}o"
	done < <(files_of_series)
}
