# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# scripts/series check: topics, coccinelle, other kernels.

# shellcheck source=scripts/lib/check-patch.sh
. "${BASH_SOURCE[0]%/*}/check-patch.sh"

# --- a topic ------------------------------------------------------------------

# nobody FILE...: report each file that only THE REST of MAINTAINERS covers, except files that
# every subsystem changes
nobody() {
	local file
	for file; do
		case $file in MAINTAINERS | */Makefile | */Kconfig* | */.gitignore) continue ;; esac
		[[ $(maintainers "$src" "$file") == *[a-zA-Z]* ]] || echo "nobody has $file"
	done
}

htmldocs() {
	rm -rf "$place/docs"
	make -s -C "$src" O="$place/docs" SPHINXDIRS="$1" htmldocs
}

# check_whole NAME FROM: what is looked at once in a topic, which begins after FROM
check_whole() {
	local name=$1 from=$2 files docs
	files=$(git_check diff --name-only --no-renames --diff-filter=d "$from" HEAD)
	# shellcheck disable=SC2086 # a list
	nobody $files >"$found"
	expect_empty "$name: get_maintainer.pl" "$found"
	docs=$(grep '^Documentation/.*\.rst$' <<<"$files" | sed 's,/[^/]*$,,;s,^Documentation/,,' | sort -u | paste -sd' ') || :
	[[ -n $docs ]] || return 0
	complaints "$(grep -v '/index\.rst$' <<<"$files")" \
		"$name: htmldocs" "$log/check.docs" htmldocs "$docs" >"$found"
	expect_empty "$name: htmldocs of $docs" "$found"
}

# needs DIR: the topics that it goes on top of; backports have no cover letter
needs() { [[ ! -f $1/cover-letter ]] || header Needs "${1##*/}"; }

# check_topic DIR: on the base and what it needs, nothing else
check_topic() {
	local dir=$1 topic=${1##*/} need patch name from arch
	run "check out the base" "$log/check.git" git_check checkout -q -f --detach base ||
		{ not_ok "$topic: cannot check out the base"; return; }
	for need in $(needs "$dir"); do
		for patch in "$repo/patches/$need"/*.patch; do
			am_patch "$patch" || { not_ok "$topic: what it needs does not apply"; return; }
		done
	done
	from=$(git_check rev-parse HEAD)
	for arch in $arches; do
		run "configure $arch" "$log/check.config" configure "$arch" || not_ok "$topic: configure $arch"
	done
	for patch in "$dir"/*.patch; do
		name=${patch##*/} name=$topic/${name%%-*}
		am_patch "$patch" || { not_ok "$name: does not apply on what $topic needs"; return; }
		ok "$name: applies, $(git_check log -1 --format=%s)"
		check_text "$patch" "$name"
		if [[ -n $(touched '*Kconfig*') ]]; then
			for arch in $arches; do
				run "configure $arch" "$log/check.config" configure "$arch" || not_ok "$name: configure $arch"
			done
		fi
		check_objects "$name"
		[[ -z $check_quick ]] || continue
		check_kunit "$name"
		check_kselftests "$name"
	done
	[[ -n $check_quick ]] || check_whole "$topic" "$from"
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
	git_check checkout -q -f --detach "$1"
	(cd "$src" && cocci "${@:2}") | sed 's/:[0-9-]*/:/g;s/ line [0-9]*/ line/g' | sort -u
}

# check_cocci: the files of the whole series, with it and without it
check_cocci() {
	local files=()
	git_check fetch -q --no-tags "$linux" +series:refs/heads/series
	mapfile -t files < <(git_check diff --name-only --diff-filter=d base series -- '*.c' ':!tools')
	run "coccicheck, ${#files[@]} files" "$log/check.cocci" cocci_at series "${files[@]}" || :
	grep -E '\.[ch]:' "$log/check.cocci" >"$found" || :
	if [[ -s $found ]]; then
		mapfile -t files < <(git_check ls-tree --name-only base -- "${files[@]}")
		run "coccicheck without the series" "$log/check.cocci.base" cocci_at base "${files[@]}" || :
		grep -vxF -f "$log/check.cocci.base" "$found" >"$found.new" || :
		mv "$found.new" "$found"
	fi
	expect_empty "coccicheck" "$found"
}

# --- other kernels ------------------------------------------------------------

# older_kernel VERSION: prepare $src for it; or say why not
older_kernel() {
	local out
	if ! out=$("$repo/scripts/tree" --linux "$1" import 2>&1 >/dev/null); then
		skip "Linux $1" "${out##*$'\n'}"
		return 1
	fi
}

# on_older VERSION COMMAND...: with the tree of that kernel
on_older() {
	older_kernel "$1" || return 0
	(
		use_linux "$1"
		sparse_wrapper
		prepare 0 && "${@:2}"
	) || not_ok "Linux $1: stopped"
}

# applies_alone DIR...: only that, without a checkout, in three ways: the tree of
# whoever gets the mail has the files of 7.3, too. It need not apply to what is
# not its base, so that is no failure.
applies_alone() {
	local dir need patch patches what
	for dir; do
		patches=() what=$(git_check log -1 --format=%s base)
		for need in $(needs "$dir"); do patches+=("$repo/patches/$need"/*.patch); done
		git_check read-tree base
		for patch in "${patches[@]}" "$dir"/*.patch; do
			GIT_ALTERNATE_OBJECT_DIRECTORIES=$cache/linux/.git/objects \
				git_check apply --cached --3way "$patch" >"$log/check.apply" 2>&1 && continue
			skip "${dir##*/}: applies to $what" "${patch#"$repo/patches/"} does not: $(sed -n "s/^Applied patch to '\(.*\)' with conflicts.*/\1/p;s/^error: \(.*\): .*/\1/p" "$log/check.apply" | sort -u | paste -sd' ')"
			continue 2
		done
		ok "${dir##*/}: applies to $what"
	done
}

# backports VERSION: check the patches in stable/VERSION
backports() {
	: >"$found"
	run "scripts/tree --linux $1 check" "$log/check.tree" apply_and_check "$1" || cp "$log/check.tree" "$found"
	expect_empty "scripts/tree --linux $1 check" "$found"
	run "check out Linux $1" "$log/check.git" git_check checkout -q -f --detach base || { not_ok "cannot check out Linux $1"; return; }
	kernel before
	check_topic "$repo/stable/$1"
	kernel after
	if try "guest: short write" "$log/check.vm-before" short_write before; then
		ok "stable/$1: a short write is reported as success without it"
	else
		not_ok "stable/$1: a short write is no success without it: $log/check.vm-before"
	fi
	try "guest: short write" "$log/check.vm-after" short_write after || :
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
		git_check fetch -q --no-tags --update-head-ok "$linux" +base:refs/heads/base &&
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
	check_topic "$1" || not_ok "${1##*/}: stopped"
}

# do_check [TOPIC]...
do_check() {
	local dirs=() dir topic first i
	[[ -z $check_quick ]] || arches=um
	while IFS= read -r dir; do
		(($# == 0)) || [[ " $* " == *" ${dir##*/} "* ]] || continue
		dirs+=("$dir")
	done < <(topic_dirs)
	for topic; do
		[[ -d $repo/patches/$topic ]] || die "$topic: no such topic; there are: $(topic_names | paste -sd' ')"
	done
	apply_series
	sparse_wrapper
	prepare 0 || die "cannot clone $linux: see above"
	tap_begin
	if [[ -z $check_quick ]]; then
		run "scripts/tree check" "$log/check.tree" "$repo/scripts/tree" check ||
			cp "$log/check.tree" "$found"
		expect_empty "scripts/tree check: checkpatch --strict, author, MAINTAINERS of new files" "$found"
	fi
	first=$(($(commit_number) % ${#dirs[@]}))	# which are skipped if the time is up
	for ((i = 0; i < ${#dirs[@]}; i++)); do
		dir=${dirs[(first + i) % ${#dirs[@]}]}
		await_place
		if late; then skip "${dir##*/}" "no time left"; else beside somewhere "$dir"; fi
	done
	wait
	if [[ -z $check_quick ]] && ! users_tree; then
		check_cocci
		on_older 7.2 applies_alone "${dirs[@]}"
		(($#)) || on_older 6.12 backports 6.12
	fi
	plan
}
