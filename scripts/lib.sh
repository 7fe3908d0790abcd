# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034
#
# What the scripts share. Source it first; it sets
#   repo   the checkout             cache  where trees and builds live
#   work   like cache, or a directory of its own in it after use_tree DIR
#   jobs   make -j                  log    directory of the log files

set -Eeuo pipefail
trap 'rc=$?; echo "${0##*/}: line $LINENO: failed ($rc): $BASH_COMMAND" >&2; exit $rc' ERR
trap 'exit 130' INT	# also when the command in the foreground made something else of Ctrl-C
export LC_ALL=C TZ=UTC
umask 022

# The one place that names the kernel: Debian's package, and its version.
linux_source='linux-source-7.3'
linux_version=7.3.4-1~bpo13+1
linux_suite=trixie-backports
linux_more_suites="forky sid"	# where a successor is looked for
topics='patches/*'		# the directories of patches for it, in $repo

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
jobs=${jobs:-$(nproc)}

say() { printf '%s\n' "$*" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# usage_from_header FILE: the comment below the SPDX line, up to the first
# line that is not a comment, is the help text of each script.
usage_from_header() { sed -n '3,${/^#/!q;s/^# \{0,1\}//p}' "$1"; }

find_cache() {
	cache=${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/grab-folios
	# kbuild refuses to work below such a directory
	if [[ $cache == *[[:space:]:]* ]]; then
		local other=/var/tmp/grab-folios-$UID
		[[ -n ${GRAB_FOLIOS_SAID:-} ]] ||
			say "note: kernels cannot be built below \"$cache\" (white space or colon): using $other"
		export GRAB_FOLIOS_SAID=1
		cache=$other
		[[ -d $cache ]] || mkdir -m 700 "$cache"
		[[ -O $cache && ! -L $cache ]] || die "$cache belongs to somebody else"
	fi
	mkdir -p "$cache" || die "cannot make the cache directory $cache: set XDG_CACHE_HOME"
	cache=$(cd "$cache" && pwd -P)
}

set_work() {
	work=$1
	linux=$work/linux
	guest=$work/guest
	kernel=$work/kernel
	log=$work/log
	ksft=$work/kselftest
	kunit_linux=$work/kunit-linux
	mkdir -p "$log"
}

find_cache
set_work "${GRAB_FOLIOS_WORK:-$cache}"

# use_linux VERSION: another kernel of Debian's, in a directory of its own: 7.2
# for patches/ on an older kernel, 6.12 for the backports in stable/
use_linux() {
	case $1 in
	7.2) linux_version=7.2.12-1~bpo13+1 linux_suite=trixie-backports ;;
	6.12) linux_version=6.12.117-1 linux_suite=trixie topics='stable/6.12' ;;
	*) die "--linux $1: 7.2 or 6.12 (without the option it is ${linux_source#linux-source-})" ;;
	esac
	linux_source=linux-source-$1 linux_more_suites=bookworm-backports
	set_work "$cache/linux-$1"
}

# users_tree: is this the clone of a tree that a user gave?
users_tree() { [[ $work == "$cache"/tree-* ]]; }

# topic_dirs: the directories of the topics, in order
topic_dirs() {
	local d
	for d in "$repo"/$topics/; do
		[[ ! -d $d ]] || printf '%s\n' "${d%/}"
	done | sort
}

# lock: one run at a time per cache; a script started by the holder passes.
lock() {
	[[ ${GRAB_FOLIOS_LOCKED:-} != "$cache" ]] || return 0
	exec {lock_fd}>>"$cache/lock"
	if ! flock -n "$lock_fd"; then
		say "another run is using $cache (lock held): waiting for it to end"
		flock "$lock_fd"
	fi
	export GRAB_FOLIOS_LOCKED=$cache
}

# late: is the time over in which something more may be begun (scripts/test --minutes)?
late() { [[ -n ${GRAB_FOLIOS_UNTIL:-} ]] && ((EPOCHSECONDS >= GRAB_FOLIOS_UNTIL)); }

# commit_number: a number made of the commit of the repository. What --minutes cuts
# off begins at a place that depends on it, so that it is not always the same.
commit_number() {
	local id
	id=$(git_user -C "$repo" rev-parse -q --verify HEAD 2>/dev/null) || id=0
	echo $((16#${id:0:6}))
}

elapsed() { printf '%d:%02d' $(((SECONDS - $1) / 60)) $(((SECONDS - $1) % 60)); }

# ticker WHAT LOG: says that WHAT is running, until killed or orphaned.
ticker() {
	local start=$SECONDS
	[[ -z ${lock_fd:-} ]] || exec {lock_fd}>&-	# it may outlive the run by a second
	while sleep 1; do
		kill -0 $$ 2>/dev/null || return 0
		if [[ -t 2 ]]; then
			printf '\r\033[K%s ... %s (log: %s)' "$1" "$(elapsed "$start")" "$2" >&2
		elif (((SECONDS - start) % 30 == 5)); then
			say "$1 ... $(elapsed "$start") (log: $2)"
		fi
	done
}

# run WHAT LOG COMMAND [ARG]...: quiet on success, with progress; the last
# lines of the log on failure (not with expect_failure=1). Returns what COMMAND
# returned.
run() {
	local what=$1 file=$2 rc=0 pid
	shift 2
	mkdir -p "$(dirname "$file")"
	ticker "$what" "$file" &
	pid=$!
	"$@" >"$file" 2>&1 </dev/null || rc=$?
	kill "$pid" 2>/dev/null || :
	wait "$pid" 2>/dev/null || :
	[[ ! -t 2 ]] || printf '\r\033[K' >&2
	if ((rc)) && [[ -z ${expect_failure:-} ]]; then
		say "FAILED ($rc): $what: last lines of $file:"
		tail -n 20 "$file" | sed 's/^/    /' >&2
	fi
	return "$rc"
}

# beside COMMAND...: run it in the background, when less than two of these are
# running; each is a process group, so that it can be ended as one
beside() {
	trap 'for p in $(jobs -p); do kill -- "-$p" 2>/dev/null || :; done' EXIT
	while (($(jobs -rp | wc -l) >= 2)); do wait -n || :; done
	set -m
	{
		set +m
		"$@" || :
	} &
	set +m
}
# beside_end: all of them have ended
beside_end() {
	wait
	trap - EXIT
}

# --- packages ---------------------------------------------------------------

# package, and the command or file that shows that it is there
packages=(
	gcc:gcc libc6-dev:/usr/include/stdio.h make:make flex:flex bison:bison
	bc:bc git:git perl:perl python3:python3 xz-utils:xz rsync:rsync
	util-linux:flock procps:ps ntfs-3g:mkntfs attr:setfattr
	e2fsprogs:mkfs.ext4 dmsetup:dmsetup kmod:insmod shellcheck:shellcheck
	ocfs2-tools:mkfs.ocfs2 f2fs-tools:mkfs.f2fs squashfs-tools:mksquashfs
	wimtools:wimlib-imagex genisoimage:genisoimage
)
mail_packages=(b4:b4 git-filter-repo:git-filter-repo)
bench_packages=(qemu-system-x86:qemu-system-x86_64 fio:fio gnuplot-nox:gnuplot libelf-dev:/usr/include/libelf.h)
quick_packages=(codespell:codespell)	# of scripts/series check --quick

# need_packages: install what is missing, or say how and stop.
need_packages() {
	local p probe missing=()
	for p in "${packages[@]}"; do
		probe=${p#*:}
		# mkfs programs are in sbin, which users lack in PATH
		[[ -e $probe ]] || PATH=$PATH:/usr/sbin:/sbin command -v "$probe" >/dev/null ||
			missing+=("${p%%:*}")
	done
	((${#missing[@]})) || return 0
	command -v apt-get >/dev/null ||
		die "missing: ${missing[*]} (names of Debian packages; there is no apt-get here)"
	((EUID == 0)) ||
		die "missing packages; as root: apt-get install --no-install-recommends ${missing[*]}"
	say "installing packages: ${missing[*]}"
	if ! apt_install "${missing[@]}" >"$log/packages" 2>&1; then
		run "apt-get update" "$log/packages" apt-get update ||
			die "apt-get update failed: see above"
		run "apt-get install" "$log/packages" apt_install "${missing[@]}" ||
			die "could not install: ${missing[*]}"
	fi
}

apt_install() {
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
}

# --- git ---------------------------------------------------------------------

# git_fixed ...: git without the user's configuration, and with fixed names
# and dates, so that the same input gives the same commit id everywhere; where
# $index is set, with that index.
git_fixed() {
	env -u GIT_DIR -u GIT_WORK_TREE -u GIT_INDEX_FILE ${index:+"GIT_INDEX_FILE=$index"} \
		GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_ATTR_NOSYSTEM=1 \
		XDG_CONFIG_HOME=/dev/null GIT_TEMPLATE_DIR= GIT_EDITOR=: GIT_PAGER=cat \
		GIT_AUTHOR_NAME='grab-folios import' GIT_AUTHOR_EMAIL=import@grab-folios.invalid \
		GIT_COMMITTER_NAME='grab-folios import' GIT_COMMITTER_EMAIL=import@grab-folios.invalid \
		GIT_AUTHOR_DATE='2026-01-01T00:00:00Z' GIT_COMMITTER_DATE='2026-01-01T00:00:00Z' \
		git -c safe.directory='*' "$@"
}

# git_user ...: git on a tree of the user's: their configuration, never a write
git_user() { git --no-optional-locks "$@"; }

# clone_tree FROM TO: a clone that shares the objects, nothing checked out yet;
# one that is there already is only freed of what a killed run left
clone_tree() {
	rm -f "$2/.git/index.lock"
	[[ ! -d $2/.git ]] || return 0
	rm -rf "$2" "$2.new"
	git clone -q --shared --no-checkout "$1" "$2.new" && mv "$2.new" "$2"
}

# use_tree DIR: from here on $work is a directory for the user's tree DIR,
# of which $linux is a clone at its HEAD. DIR itself is only read.
use_tree() {
	local dir=$1 head top dirty
	[[ -d $dir ]] || die "--tree $dir: no such directory"
	dir=$(cd "$dir" && pwd -P)
	top=$(git_user -C "$dir" rev-parse --show-toplevel 2>&1) ||
		die "--tree $dir: not a git tree (git says: $top); make it one: git init, git add -f -A, git commit"
	[[ $top == "$dir" ]] || die "--tree $dir: the top of that git tree is $top: give that"
	[[ -f $dir/Kbuild && -f $dir/mm/filemap.c ]] || die "--tree $dir: not a Linux kernel tree"
	head=$(git_user -C "$dir" rev-parse -q --verify 'HEAD^{commit}') ||
		die "--tree $dir: no commit is checked out"
	dirty=$(git_user -C "$dir" status --porcelain --untracked-files=no | head -n 5)
	[[ -z $dirty ]] || die "--tree $dir: uncommitted changes (commit or stash them; only what is committed is used):
$dirty"
	set_work "$cache/tree-$(printf %s "$dir" | sha256sum | cut -c1-12)"
	export GRAB_FOLIOS_WORK=$work
	lock
	run "clone $dir" "$log/clone" clone_tree "$dir" "$linux" || die "--tree $dir: cannot clone"
	git -C "$linux" fetch -q --no-tags "$dir" HEAD || die "--tree $dir: cannot fetch its HEAD"
	git_fixed -C "$linux" update-ref refs/heads/base "$head"
}

# --- kernels -----------------------------------------------------------------

arch=um
kmake() { make -j"$jobs" ARCH="$arch" "$@"; }

# uml_fragments: what the kernel needs that runs the kselftests
uml_fragments() {
	printf '%s\n' "$repo/kunit/kselftest.config" "$repo/kunit/uml.config"
	kselftest_fragments
}
kselftest_fragments() {
	[[ ! -d $repo/selftests ]] || find "$repo/selftests" -name config | sort
}

# new_symbols: the configuration symbols that only the series has
new_symbols() {
	sed -n 's/^+\(menu\)\{0,1\}config \([A-Z0-9_]*\)$/CONFIG_\2/p' "$repo"/patches/*/*.patch
}

# configure_kernel TREE BUILD MODE FRAGMENT...: the fragments over the defaults of
# $arch. In mode "base" symbols that only the series has may be absent.
configure_kernel() {
	local tree=$1 out=$2 mode=$3 line absent=''
	shift 3
	mkdir -p "$out"
	{
		cat "$@"
		echo "# mode: ${mode:-all symbols}"	# what one drops the other wants
	} >"$out/.config.want"
	if ! cmp -s "$out/.config.want" "$out/.config.had" || [[ ! -f $out/.config ]]; then
		rm -f "$out/.config.had"
		cp "$out/.config.want" "$out/.config"
	fi
	kmake -C "$tree" O="$out" olddefconfig || return
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

# build_kernel WHAT TREE BUILD LOG MODE FRAGMENT...: for $arch, with modules;
# scripts/vm boots kernel_image BUILD, and loads the modules
build_kernel() {
	local what=$1 tree=$2 out=$3 file=$4 target=linux
	shift 4
	[[ $arch == um ]] || target=bzImage
	run "$what: configure" "$file" configure_kernel "$tree" "$out" "$@" &&
		run "$what: build" "$file" kmake -C "$tree" O="$out" "$target" modules
}
kernel_image() { if [[ $arch == um ]]; then echo "$1/linux"; else echo "$1/arch/x86/boot/bzImage"; fi; }

# The copy of the tree that the kernels of the kselftests are built from, one
# after the other and in one build directory, as most objects are the same
guest_checkout() { guest_clone && g checkout -q -f --detach "$1"; }
guest_clone() {
	clone_tree "$linux" "$guest" &&
		g fetch -q --no-tags "$linux" +series:refs/guest/series +base:refs/guest/base
}
g() { git_fixed -C "$guest" "$@"; }

# guest_without END [COMMIT | +NAME]...: check out END, a commit below the series,
# without the COMMITs, and with the mistakes NAME. It has two things of the series:
# the test filesystem, and the headers that most objects depend on, which only
# declare more; with those of END nearly everything would have to be built anew.
guest_without() {
	local tree
	guest_clone && tree=$(tree_without "$@") &&
		g checkout -q -f --detach "$(g commit-tree -p "$1" -m 'for a guest' "$tree")"
}
# in an index of its own: what is checked out changes once, and files that stay as
# they are keep their times
tree_without() {
	local index=$work/guest.index range=refs/guest/base..refs/guest/series commit headers
	rm -f "$index" "$index.lock"	# a killed run left it
	g read-tree "$1" || return
	for commit in "${@:2}"; do
		case $commit in
		+*) g apply --cached "$repo/scripts/proofs.d/${commit#+}.diff" ;;
		*) g diff "$commit~" "$commit" | g apply --cached --3way -R ;;
		esac || return
	done
	commit=$(g log --format=%H --diff-filter=A $range -- lib/test_wofs.c)
	g diff "$commit~" "$commit" | g apply --cached --3way || return
	mapfile -t headers < <(g diff --name-only $range -- include fs/internal.h mm/internal.h)
	g ls-tree refs/guest/series "${headers[@]}" | g update-index --add --index-info &&
		g write-tree
}

# build_uml WHAT DIR LOG [base]: the kernel of the kselftests from $guest as it is, and
# its modules, to DIR
build_uml() {
	local fragments out=$work/guest-build
	mapfile -t fragments < <(uml_fragments)
	rm -rf "$2"
	build_kernel "$1" "$guest" "$out" "$3" "${4:-}" "${fragments[@]}" && collect_kernel "$out" "$2"
}
collect_kernel() {
	mkdir -p "$2"
	sed 's/o$/ko/' "$1/modules.order" | rsync -a --files-from=- "$1/" "$2/" &&
		cp "$1/modules.order" "$1/linux" "$2/"
}

# build_patched_uml: that with the series, to $kernel, where scripts/vm finds it
build_patched_uml() {
	run "copy the patched tree" "$log/guest" guest_checkout "$(git_fixed -C "$linux" rev-parse series)" &&
		build_uml "patched kernel" "$kernel" "$log/build"
}

# Debian's sparse does not know two builtins that the kernel uses since 6.15 and
# 7.0; kbuild refuses it for the first, and stops warning after an error because
# of the second.
sparse_wrapper() {
	cat >"$work/check.sparse" <<-'EOT'
		#!/bin/sh
		exec sparse -D__typeof_unqual__=__typeof__ '-D__builtin_strlen(x)=(sizeof(x)-1)' "$@"
	EOT
	chmod +x "$work/check.sparse"
}

# collections: the kselftests that the series adds
collections() {
	git_fixed -C "$linux" diff --name-only --diff-filter=A base series -- tools/testing/selftests |
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

# The copy of the patched tree that KUnit is built from, apart from $linux: the
# breakages change it, and the build stays warm.
kunit_tree() {
	run "copy the patched tree" "$log/kunit-tree" kunit_checkout
}
kunit_checkout() {
	clone_tree "$linux" "$kunit_linux" &&
		git_fixed -C "$kunit_linux" fetch -q --no-tags "$linux" series &&
		git_fixed -C "$kunit_linux" checkout -q -f --detach FETCH_HEAD
}

# kunit_py build|exec [OPTION]...: kunit.py on that copy; "run" is both
kunit_py() {
	local cmd=$1 config=(--kunitconfig="$repo/.kunitconfig" --jobs="$jobs")
	local machine=(--kernel_args=seccomp=on --kernel_args=ncpus=4 --kernel_args=slab_debug=FZPU)
	shift
	case $cmd in
	build) set -- "${config[@]}" "$@" ;;
	exec) set -- "${machine[@]}" "$@" ;;
	run) set -- "${config[@]}" "${machine[@]}" "$@" ;;
	esac
	mkdir -p "$work/kunit"
	python3 "$kunit_linux/tools/testing/kunit/kunit.py" "$cmd" --build_dir="$work/kunit" "$@"
}

# What in the console means that the kernel is broken.
kernel_reports='Kernel panic|BUG:|WARNING:|Oops|kernel BUG at|Kernel mode fault|'
kernel_reports+='KASAN:|KCSAN:|UBSAN:|KFENCE:|INFO: task .* blocked for more than|'
kernel_reports+='possible (circular|recursive|irq lock inversion|deadlock)|inconsistent lock state|'
kernel_reports+='suspicious RCU usage|lock held when returning|bad unlock balance|'
kernel_reports+='held lock freed|lock order inversion|(possible|unsafe).*locking|soft lockup|'
kernel_reports+='kmemleak: [0-9]* new suspected|rcu.*detected stalls|scheduling while atomic|sleeping function called'
