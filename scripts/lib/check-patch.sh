# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# scripts/series check, one patch: text, objects, KUnit, kselftests. The commits are
# made in a clone, $src, whose HEAD is the patch that is looked at; the build directories
# of the two architectures are warm, so that one patch takes seconds. All of it is in
# $place, of which there are two, as a patch keeps one processor busy.

# shellcheck source=scripts/lib/results.sh
. "${BASH_SOURCE[0]%/*}/results.sh"

check_packages=(
	sparse:sparse coccinelle:spatch python3-sphinx:sphinx-build
	python3-sphinx-rtd-theme:/usr/lib/python3/dist-packages/sphinx_rtd_theme
	libelf-dev:/usr/include/libelf.h
)
quick_packages=(codespell:codespell)

place='' src='' found=''	# see prepare()
arches="um x86_64" check_quick=''

git_check() { git_fixed -C "$src" -c am.threeWay=false -c commit.gpgSign=false -c core.hooksPath=/dev/null "$@"; }

# touched [PATHSPEC]...: the files of the patch that are there after it
touched() { git_check diff --name-only --no-renames --diff-filter=d HEAD~ HEAD -- "$@"; }

# complaints FILES WHAT LOG COMMAND...: run it; what it says about one of FILES, a
# list, and that it failed
complaints() {
	local files=$1 what=$2 file=$3
	shift 3
	try "$what" "$file" "$@" || echo "error: $what: failed, see $file" >>"$file"
	sed "s,$src/,,g" "$file" | grep -iE 'warning|error' |
		grep -F -f <(printf '%s\n' "$files" ': failed, see ') || :
}

# new_complaints FILES WHAT LOG COMMAND...: what it does not say without the
# patch, to $found
new_complaints() {
	local head
	complaints "$@" >"$found"
	[[ -s $found ]] || return 0
	head=$(git_check rev-parse HEAD)
	git_check checkout -q --detach HEAD~
	complaints "$@" >"$found.before"
	git_check checkout -q --detach "$head"
	awk '{ line = $0; gsub(/:[0-9]+/, ":", line) }
		FILENAME == ARGV[1] { old[line]; next } /: failed, see / || !(line in old)' \
		"$found.before" "$found" >"$found.new"
	mv "$found.new" "$found"
}

# --- the text of a patch ------------------------------------------------------

am_patch() {
	run "${1#"$repo/"}" "$log/check.am" git_check am -q --no-3way --keep-cr "$1" && return
	git_check am --abort 2>/dev/null || :
	return 1
}

# the kernel's own words
spelling() {
	sed -n '/^Subject:/,/^---$/p;/^+++ /d;s/^+//p' "$1" | codespell -L uptodate,iput,filp,inflight,clen - || :
}

check_text() {
	local patch=$1 name=$2 files
	git_check diff --check HEAD~ HEAD >"$found" || :
	expect_empty "$name: whitespace" "$found"
	spelling "$patch" >"$found" 2>&1
	expect_empty "$name: codespell" "$found"
	files=$(touched '*.[ch]' ':!tools')
	[[ -n $files ]] || return 0
	# shellcheck disable=SC2086 # a list
	new_complaints "$files" "$name: kernel-doc" "$log/check.kernel-doc" kernel_doc $files
	expect_empty "$name: kernel-doc" "$found"
}

kernel_doc() {
	local file
	cd "$src" || return
	for file; do
		[[ ! -f $file ]] || scripts/kernel-doc -none "$file"
	done
}

# --- objects ------------------------------------------------------------------

# objects: of the C files of the patch; for a header, of the files of the topic
# that include it
objects() {
	local h
	{
		touched '*.c' ':!tools'
		while IFS= read -r h; do
			git_check diff --name-only --diff-filter=d base HEAD -- '*.c' ':!tools' |
				(cd "$src" && xargs -rd '\n' grep -lE "^#include [<\"](.*/)?${h##*/}[>\"]") || :
		done < <(touched '*.h' ':!tools')
	} | sort -u | sed 's/c$/o/'
}

# configure ARCH: anew where a symbol may have come
configure() {
	local out=$place/$1
	mkdir -p "$out"
	{
		uml_fragments | xargs -rd '\n' cat
		printf 'CONFIG_%s=y\n' DEBUG_FOLIO_LOCK FOLIO_LOCK_DEBUG_KUNIT_TEST
		[[ $1 == um ]] || sed '/KASAN/d' "$repo/kunit/x86_64.config"
	} >"$out/.config"
	make -s -C "$src" ARCH="$1" O="$out" olddefconfig
}

# compile ARCH OBJECTS [VARIABLE]...: compile each object of the list whose source file exists
compile() {
	local arch=$1 objects=$2 o there=()
	shift 2
	for o in $objects; do
		[[ ! -f $src/${o%o}c ]] || there+=("$o")
	done
	((${#there[@]})) || return 0
	make -s -C "$src" -j"$jobs" ARCH="$arch" O="$place/$arch" W=1 "$@" "${there[@]}"
}

check_objects() {
	local name=$1 arch files objects
	objects=$(objects)
	[[ -n $objects ]] || return 0
	files=$(touched '*.[ch]')
	for arch in $arches; do
		new_complaints "$files" "$name: $arch" "$log/check.$arch" compile "$arch" "$objects"
		expect_empty "$name: $arch, W=1" "$found"
	done
	[[ -z $check_quick ]] || return 0
	new_complaints "$files" "$name: sparse" "$log/check.sparse" compile x86_64 "$objects" C=2 CHECK="$work/check.sparse"
	expect_empty "$name: sparse" "$found"
}

# --- KUnit --------------------------------------------------------------------

# has_symbol CONFIG_NAME: at this point of the series
has_symbol() { git_check grep -qE "^(menu)?config ${1#CONFIG_}\$" HEAD -- '*Kconfig*'; }

kunit_config() {
	local line new
	new=" $(new_symbols | paste -sd' ') "
	while IFS= read -r line; do
		[[ $new != *" ${line%%=*} "* ]] || has_symbol "${line%%=*}" || continue
		printf '%s\n' "$line"
	done <"$repo/.kunitconfig" >"$place/kunitconfig"
	grep -q _KUNIT_TEST= "$place/kunitconfig"
}

check_kunit() {
	local name=$1 file=$log/check.kunit dir=$place/kunit n
	[[ -n $(touched 'mm/*.c' include/linux/pagemap.h 'fs/*user_window*' '*_kunit.c') ]] && kunit_config || return 0
	: >"$found"
	mkdir -p "$dir"
	run_for 1800 "$name: KUnit" "$file" python3 "$src/tools/testing/kunit/kunit.py" run --build_dir="$dir" \
		--kunitconfig="$place/kunitconfig" --jobs="$jobs" --timeout=600 \
		--kernel_args=seccomp=on --kernel_args=ncpus=4 || echo "kunit.py failed: $file" >"$found"
	n=$(kunit_cases "$file" | grep -c ^PASSED) || :
	((${n:-0})) || echo "no test passed: $file" >>"$found"
	grep -aE -f "$kernel_reports" "$dir/test.log" >>"$found" || :
	expect_empty "$name: KUnit, ${n:-0} tests" "$found"
}

# --- kselftests ---------------------------------------------------------------

user_headers() {
	[[ -d $place/headers/usr/include ]] ||
		make -s -C "$src" -j"$jobs" O="$place/headers" ARCH=x86_64 headers
}
kselftests() {
	user_headers && make -s -C "$src/tools/testing/selftests" -j"$jobs" O="$place/kselftest" TARGETS="$1" \
		KHDR_INCLUDES="-isystem $place/headers/usr/include" FORCE_TARGETS=1
}

# A program of a kselftest that is not in the .gitignore beside it
not_ignored() {
	local file
	find "$place/kselftest/kselftest/$1" -maxdepth 1 -type f -perm -u+x -printf '%f\n' | while IFS= read -r file; do
		grep -qxF -- "$file" "$src/tools/testing/selftests/$1/.gitignore" ||
			echo "tools/testing/selftests/$1/.gitignore: $file is missing"
	done
}

check_kselftests() {
	local name=$1 dir
	while IFS= read -r dir; do
		[[ -f $src/tools/testing/selftests/$dir/Makefile ]] || continue
		rm -rf "$place/kselftest"
		new_complaints "$(touched tools)" "$name: kselftests" "$log/check.kselftest" kselftests "$dir"
		[[ -s $found ]] || not_ignored "$dir" >"$found"
		expect_empty "$name: kselftest $dir, .gitignore" "$found"
	done < <(touched 'tools/testing/selftests/*/*.c' | sed 's,^tools/testing/selftests/,,;s,/[^/]*$,,' | sort -u)
}
