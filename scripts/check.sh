# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154,SC2030,SC2031
#
# scripts/series check, which sources it: each topic alone, and each patch by
# itself. The commits are made in a clone, $src, whose HEAD is the patch that is
# looked at; the build directories of the two architectures are warm, so that
# one patch takes seconds. All that is in $place, of which there are two, as a
# patch keeps one processor busy.

check_packages=(
	sparse:sparse coccinelle:spatch python3-sphinx:sphinx-build
	python3-sphinx-rtd-theme:/usr/lib/python3/dist-packages/sphinx_rtd_theme
	libelf-dev:/usr/include/libelf.h
)

passed=0 failed=0 skipped=0
ok() { passed=$((passed + 1)); echo "ok - $*"; }
not_ok() { failed=$((failed + 1)); echo "FAIL - $*"; }
skip() { skipped=$((skipped + 1)); echo "SKIP - $*"; }

# verdict WHAT: a check that found what is in $found; nothing is good
verdict() {
	if [[ ! -s $found ]]; then
		ok "$1"
	else
		not_ok "$1"
		head -n 10 "$found" | sed 's/^/    /'
	fi
}

c() { git_fixed -C "$src" -c am.threeWay=false -c commit.gpgSign=false -c core.hooksPath=/dev/null "$@"; }

# touched [PATHSPEC]...: the files of the patch that are there after it
touched() { c diff --name-only --no-renames --diff-filter=d HEAD~ HEAD -- "$@"; }

# complaints FILES WHAT LOG COMMAND...: run it; what it says about one of FILES, a
# list, and that it failed
complaints() {
	local files=$1 what=$2 file=$3
	shift 3
	expect_failure=1 run "$what" "$file" "$@" || echo "error: $what: failed, see $file" >>"$file"
	sed "s,$src/,,g" "$file" | grep -iE 'warning|error' |
		grep -F -f <(printf '%s\n' "$files" ': failed, see ') || :
}

# new_complaints FILES WHAT LOG COMMAND...: what it does not say without the
# patch, to $found
new_complaints() {
	local head
	complaints "$@" >"$found"
	[[ -s $found ]] || return 0
	head=$(c rev-parse HEAD)
	c checkout -q --detach HEAD~
	complaints "$@" >"$found.before"
	c checkout -q --detach "$head"
	awk '{ line = $0; gsub(/:[0-9]+/, ":", line) }
		FILENAME == ARGV[1] { old[line]; next } /: failed, see / || !(line in old)' \
		"$found.before" "$found" >"$found.new"
	mv "$found.new" "$found"
}

# --- the text of a patch ------------------------------------------------------

am_patch() {
	run "${1#"$repo/"}" "$log/check.am" c am -q --no-3way --keep-cr "$1" && return
	c am --abort 2>/dev/null || :
	return 1
}

# the kernel's own words
spelling() {
	sed -n '/^Subject:/,/^---$/p;/^+++ /d;s/^+//p' "$1" | codespell -L uptodate,iput,filp,inflight,clen - || :
}

check_text() {
	local patch=$1 name=$2 files
	c diff --check HEAD~ HEAD >"$found" || :
	verdict "$name: whitespace"
	spelling "$patch" >"$found" 2>&1
	verdict "$name: codespell"
	files=$(touched '*.[ch]' ':!tools')
	[[ -n $files ]] || return 0
	# shellcheck disable=SC2086 # a list
	new_complaints "$files" "$name: kernel-doc" "$log/check.kernel-doc" kernel_doc $files
	verdict "$name: kernel-doc"
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
			c diff --name-only --diff-filter=d base HEAD -- '*.c' ':!tools' |
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

# compile ARCH [VARIABLE]...: $objects, those whose source is there
compile() {
	local arch=$1 o there=()
	shift
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
		new_complaints "$files" "$name: $arch" "$log/check.$arch" compile "$arch"
		verdict "$name: $arch, W=1"
	done
	[[ -z $quick ]] || return 0
	new_complaints "$files" "$name: sparse" "$log/check.sparse" compile x86_64 C=2 CHECK="$work/check.sparse"
	verdict "$name: sparse"
}

# --- KUnit --------------------------------------------------------------------

# has_symbol CONFIG_NAME: at this point of the series
has_symbol() { c grep -qE "^(menu)?config ${1#CONFIG_}\$" HEAD -- '*Kconfig*'; }

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
	run "$name: KUnit" "$file" python3 "$src/tools/testing/kunit/kunit.py" run --build_dir="$dir" \
		--kunitconfig="$place/kunitconfig" --jobs="$jobs" --timeout=600 \
		--kernel_args=seccomp=on --kernel_args=ncpus=4 || echo "kunit.py failed: $file" >"$found"
	n=$(sed -n 's/.*Testing complete\..*[ :]passed: \([0-9]*\).*/\1/p' "$file" | tail -n 1)
	((${n:-0})) || echo "no test passed: $file" >>"$found"
	grep -aE "$kernel_reports" "$dir/test.log" >>"$found" || :
	verdict "$name: KUnit, ${n:-0} tests"
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
		verdict "$name: kselftest $dir, .gitignore"
	done < <(touched 'tools/testing/selftests/*/*.c' | sed 's,^tools/testing/selftests/,,;s,/[^/]*$,,' | sort -u)
}

# --- a topic ------------------------------------------------------------------

# nobody FILE...: those that only THE REST has; what belongs to everybody is not asked
nobody() {
	local file
	for file; do
		case $file in MAINTAINERS | */Makefile | */Kconfig* | */.gitignore) continue ;; esac
		(cd "$src" && perl scripts/get_maintainer.pl --no-git --no-git-fallback --subsystem \
			--no-rolestats -f "$file") | grep -v -e @ -e '^THE REST$' | grep -q '[a-zA-Z]' || echo "nobody has $file"
	done
}

htmldocs() {
	rm -rf "$place/docs"
	make -s -C "$src" O="$place/docs" SPHINXDIRS="$1" htmldocs
}

# check_whole NAME FROM: what is looked at once in a topic, which begins after FROM
check_whole() {
	local name=$1 from=$2 files docs
	files=$(c diff --name-only --no-renames --diff-filter=d "$from" HEAD)
	# shellcheck disable=SC2086 # a list
	nobody $files >"$found"
	verdict "$name: get_maintainer.pl"
	docs=$(grep '^Documentation/.*\.rst$' <<<"$files" | sed 's,/[^/]*$,,;s,^Documentation/,,' | sort -u | paste -sd' ') || :
	[[ -n $docs ]] || return 0
	complaints "$(grep -v '/index\.rst$' <<<"$files")" \
		"$name: htmldocs" "$log/check.docs" htmldocs "$docs" >"$found"
	verdict "$name: htmldocs of $docs"
}

needs() { sed -n '/^$/q;s/^Needs: *//p' "$1/cover-letter" 2>/dev/null || :; }

# check_topic DIR: on the base and what it needs, nothing else
check_topic() {
	local dir=$1 topic=${1##*/} need patch name from arch
	run "check out the base" "$log/check.git" c checkout -q -f --detach base ||
		{ not_ok "$topic: cannot check out the base"; return; }
	for need in $(needs "$dir"); do
		for patch in "$repo/patches/$need"/*.patch; do
			am_patch "$patch" || { not_ok "$topic: what it needs does not apply"; return; }
		done
	done
	from=$(c rev-parse HEAD)
	for arch in $arches; do
		run "configure $arch" "$log/check.config" configure "$arch" || not_ok "$topic: configure $arch"
	done
	for patch in "$dir"/*.patch; do
		name=${patch##*/} name=$topic/${name%%-*}
		am_patch "$patch" || { not_ok "$name: does not apply on what $topic needs"; return; }
		ok "$name: applies, $(c log -1 --format=%s)"
		check_text "$patch" "$name"
		if [[ -n $(touched '*Kconfig*') ]]; then
			for arch in $arches; do
				run "configure $arch" "$log/check.config" configure "$arch" || not_ok "$name: configure $arch"
			done
		fi
		check_objects "$name"
		[[ -z $quick ]] || continue
		check_kunit "$name"
		check_kselftests "$name"
	done
	[[ -n $quick ]] || check_whole "$topic" "$from"
}

# --- coccinelle ---------------------------------------------------------------

# cocci FILE...: all reports, as scripts/coccicheck makes them, which takes one
# file or a directory; two of them want an OCaml compiler and say so
cocci() {
	local script options
	while IFS= read -r script; do
		options=$(sed -n 's,.*Options: *,,p' "$script" | paste -sd' ')
		# shellcheck disable=SC2086 # a list
		spatch -D report --no-show-diff --very-quiet --jobs "$jobs" --cocci-file "$script" $options "$@" || :
	done < <(find scripts/coccinelle -name '*.cocci' -exec grep -lE 'virtual[[:space:]]+report' {} + | sort)
}
cocci_at() {
	c checkout -q -f --detach "$1"
	(cd "$src" && cocci "${@:2}") | sed 's/:[0-9-]*/:/g;s/ line [0-9]*/ line/g' | sort -u
}

# check_cocci: the files of the whole series, with it and without it
check_cocci() {
	local files=()
	c fetch -q --no-tags "$linux" +series:refs/heads/series
	mapfile -t files < <(c diff --name-only --diff-filter=d base series -- '*.c' ':!tools')
	run "coccicheck, ${#files[@]} files" "$log/check.cocci" cocci_at series "${files[@]}" || :
	grep -E '\.[ch]:' "$log/check.cocci" >"$found" || :
	if [[ -s $found ]]; then
		mapfile -t files < <(c ls-tree --name-only base -- "${files[@]}")
		run "coccicheck without the series" "$log/check.cocci.base" cocci_at base "${files[@]}" || :
		grep -vxF -f "$log/check.cocci.base" "$found" >"$found.new" || :
		mv "$found.new" "$found"
	fi
	verdict "coccicheck"
}

# --- other kernels ------------------------------------------------------------

# older_kernel VERSION: prepare $src for it; or say why not
older_kernel() {
	local out
	if ! out=$("$repo/scripts/tree" --linux "$1" import 2>&1 >/dev/null); then
		skip "Linux $1: ${out##*$'\n'}"
		return 1
	fi
}

# on_older VERSION COMMAND...: with the tree of that kernel
on_older() {
	older_kernel "$1" || return 0
	(
		use_linux "$1"
		sparse_wrapper
		prepare 0 && apart "${@:2}"
	)
	add_numbers 1 "Linux $1"
}

# apart COMMAND...: in a subshell; add_numbers takes the numbers of its checks over
apart() {
	passed=0 failed=0 skipped=0
	"$@"
	echo "$passed $failed $skipped" >>"$cache/check.numbers"
}

# add_numbers N WHAT: of N of these; who left none was stopped
add_numbers() {
	local p f s n=0
	while read -r p f s; do
		passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s)) n=$((n + 1))
	done < <(cat "$cache/check.numbers" 2>/dev/null)
	rm -f "$cache/check.numbers"
	((n == $1)) || not_ok "$2: stopped"
}

# applies_alone DIR...: only that, without a checkout, in three ways: the tree of
# whoever gets the mail has the files of 7.3, too. It need not apply to what is
# not its base, so that is no failure.
applies_alone() {
	local dir need patch patches what
	for dir; do
		patches=() what=$(c log -1 --format=%s base)
		for need in $(needs "$dir"); do patches+=("$repo/patches/$need"/*.patch); done
		c read-tree base
		for patch in "${patches[@]}" "$dir"/*.patch; do
			GIT_ALTERNATE_OBJECT_DIRECTORIES=$cache/linux/.git/objects \
				c apply --cached --3way "$patch" >"$log/check.apply" 2>&1 && continue
			skip "${dir##*/}: not for $what: ${patch#"$repo/patches/"} does not apply to" \
				"$(sed -n "s/^Applied patch to '\(.*\)' with conflicts.*/\1/p;s/^error: \(.*\): .*/\1/p" "$log/check.apply" | sort -u | paste -sd' ')"
			continue 2
		done
		ok "${dir##*/}: applies to $what"
	done
}

# backports VERSION: those in stable/
backports() {
	: >"$found"
	run "scripts/tree --linux $1 check" "$log/check.tree" apply_and_check "$1" || cp "$log/check.tree" "$found"
	verdict "scripts/tree --linux $1 check"
	run "check out Linux $1" "$log/check.git" c checkout -q -f --detach base || { not_ok "cannot check out Linux $1"; return; }
	kernel before
	check_topic "$repo/stable/$1"
	kernel after
	if expect_failure=1 run "guest: short write" "$log/check.vm-before" short_write before; then
		ok "stable/$1: a short write is reported as success without it"
	else
		not_ok "stable/$1: a short write is no success without it: $log/check.vm-before"
	fi
	expect_failure=1 run "guest: short write" "$log/check.vm-after" short_write after || :
	if grep -q 'No space left on device' "$log/check.vm-after"; then
		ok "stable/$1: a short write is reported"
	else
		not_ok "stable/$1: a short write is not reported: $log/check.vm-after"
	fi
}

# kernel NAME: User Mode Linux as it is in $src, for short_write()
kernel() {
	mkdir -p "$place/$1"
	if ! run "configure um" "$log/check.config" configure um ||
		! run "build the kernel $1" "$log/check.kernel" make -C "$src" -j"$jobs" ARCH=um O="$place/um" linux ||
		! cp "$place/um/linux" "$place/$1/"; then
		not_ok "the kernel $1 does not build"
	fi
}

# short_write NAME: what dd says of 8704 KiB that go to a file that can take 8492
short_write() {
	"$repo/scripts/vm" --kernel "$place/$1/linux" --timeout 120 -- bash -ec '
		mount -t tmpfs -o size=8492k none /mnt
		truncate -s 64M /mnt/img
		losetup /dev/loop0 /mnt/img
		dd if=/dev/zero of=/dev/loop0 bs=512k count=17 oflag=direct conv=fsync'
}
apply_and_check() { "$repo/scripts/tree" --linux "$1" apply && "$repo/scripts/tree" --linux "$1" check; }

# --- all of it ----------------------------------------------------------------

# prepare N: the place of that number, and $src in it, a clone of $linux
prepare() {
	place=$work/check-$1 log=$work/log/check-$1
	src=$place/linux found=$place/found
	mkdir -p "$place" && : >"$found" &&
		run "clone" "$log/check.git" clone_tree "$linux" "$src" &&
		c fetch -q --no-tags --update-head-ok "$linux" +base:refs/heads/base &&
		rm -rf "$src/.git/rebase-apply"
}

# somewhere DIR: check that topic, in the place that is free
somewhere() {
	local n fd
	for ((n = 0; ; n = 1 - n)); do
		exec {fd}>"$work/check-$n.lock"
		flock -n "$fd" && break
		exec {fd}>&-
		sleep 0.1
	done
	prepare "$n" || { not_ok "${1##*/}: cannot clone $linux"; return; }
	apart check_topic "$1"
}

# do_check [TOPIC]...
do_check() {
	local dirs=() dir topic start=$SECONDS
	arches="um x86_64"
	[[ -z $quick ]] || arches=um
	while IFS= read -r dir; do
		(($# == 0)) || [[ " $* " == *" ${dir##*/} "* ]] || continue
		dirs+=("$dir")
	done < <(topic_dirs)
	for topic; do
		[[ -d $repo/patches/$topic ]] || die "$topic: no such topic; there are: $(topics | paste -sd' ')"
	done
	"$repo/scripts/tree" apply || die "the series does not apply: see above"
	sparse_wrapper
	prepare 0 || die "cannot clone $linux: see above"
	rm -f "$cache/check.numbers"
	if [[ -z $quick ]]; then
		run "scripts/tree check" "$log/check.tree" "$repo/scripts/tree" check ||
			cp "$log/check.tree" "$found"
		verdict "scripts/tree check: checkpatch --strict, author, MAINTAINERS of new files"
	fi
	for dir in "${dirs[@]}"; do beside somewhere "$dir"; done
	beside_end
	add_numbers ${#dirs[@]} "a topic"
	if [[ -z $quick ]] && ! users_tree; then
		check_cocci
		on_older 7.2 applies_alone "${dirs[@]}"
		(($#)) || on_older 6.12 backports 6.12
	fi
	say "all of it: $(elapsed "$start"); logs: $work/log/check-*"
	echo "$passed passed, $failed failed$( ((!skipped)) || echo ", $skipped skipped")"
	((failed == 0))
}
