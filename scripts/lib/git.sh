# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# git: the trees, the topics, and what patches say.

# shellcheck source=scripts/lib/common.sh
. "${BASH_SOURCE[0]%/*}/common.sh"

# git_fixed ...: git without the user's configuration, and with fixed names and dates, so
# that the same input gives the same commit id everywhere
git_fixed() { git_indexed '' "$@"; }

# git_indexed INDEX ...: the same, with that index
git_indexed() {
	env -u GIT_DIR -u GIT_WORK_TREE -u GIT_INDEX_FILE ${1:+"GIT_INDEX_FILE=$1"} \
		GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_ATTR_NOSYSTEM=1 \
		XDG_CONFIG_HOME=/dev/null GIT_TEMPLATE_DIR= GIT_EDITOR=: GIT_PAGER=cat \
		GIT_AUTHOR_NAME='grab-folios import' GIT_AUTHOR_EMAIL=import@grab-folios.invalid \
		GIT_COMMITTER_NAME='grab-folios import' GIT_COMMITTER_EMAIL=import@grab-folios.invalid \
		GIT_AUTHOR_DATE='2026-01-01T00:00:00Z' GIT_COMMITTER_DATE='2026-01-01T00:00:00Z' \
		git -c safe.directory='*' "${@:2}"
}

# git_tree ...: in the kernel tree
git_tree() { git_fixed -C "$linux" "$@"; }

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
	git_tree update-ref refs/heads/base "$head"
}

# --- topics -------------------------------------------------------------------

topics_in='patches/*'	# the directories of patches for the kernel, in $repo

# topic_dirs: the directories of the topics, in order
topic_dirs() {
	local d
	for d in "$repo"/$topics_in/; do
		[[ ! -d $d ]] || printf '%s\n' "${d%/}"
	done | sort
}

# topic_names: print the names of the topics
topic_names() { find "$repo/patches" -mindepth 1 -maxdepth 1 -type d -printf '%f\n' | sort; }

# header KEY TOPIC: the values of these lines above the text of its cover letter
header() { sed -n "/^\$/q;s/^$1: *//p" "$repo/patches/$2/cover-letter"; }

# patch_note PATCH: the text below the ---, which git am drops and which git format-patch
# --notes makes of the git note of the commit
patch_note() {
	awk '/^diff --git /{ exit } /^Notes:$/{ on = 1; next }
		on && !/^    |^$/{ exit } on { sub(/^    /, ""); print }' "$1"
}

# maintainers TREE FILE: the subsystems that have FILE, without THE REST
maintainers() {
	(cd "$1" && perl scripts/get_maintainer.pl --no-git --no-git-fallback --subsystem \
		--no-rolestats -f "$2") | grep -v -e @ -e '^THE REST$' || :
}

# code_id TOPIC: changes when the code of the topic does, not with messages
code_id() { sed -n '/^diff --git /,/^From /{/^From /!p}' "$repo/patches/$1"/*.patch | sha1sum | cut -c1-12; }

# record_series FILE TOPIC...: bench/FILE is made with these as they are now
record_series() {
	local file=$1 topic
	grep -v "^$file " "$repo/bench/series" >"$log/series" || :
	shift
	{
		printf '%s' "$file"
		for topic; do printf ' %s=%s' "$topic" "$(code_id "$topic")"; done
		echo
	} >>"$log/series"
	cp "$log/series" "$repo/bench/series"
}
