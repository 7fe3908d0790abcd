# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# What every script needs. Sourcing it sets $repo, $jobs and traps, and touches nothing:
# --help works without HOME, network or a cache. After the options, setup() or
# use_cache() sets
#   cache  where trees and builds live
#   work   like cache, or a directory below it for --tree DIR or another kernel
#   log    the directory of the log files

[[ -z ${repo:-} ]] || return 0
set -Eeuo pipefail
trap 'rc=$?; echo "${0##*/}: line $LINENO: failed ($rc): $BASH_COMMAND" >&2; exit $rc' ERR
trap 'exit 130' INT
trap 'exit 143' TERM HUP
trap 'run_cleanups' EXIT
export LC_ALL=C TZ=UTC
umask 022

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
jobs=${GRAB_FOLIOS_JOBS:-$(nproc)}
cache='' work='' log='' linux='' guest='' kernel='' ksft='' kunit_linux=''

say() { printf '%s\n' "$*" >&2; }
die_status=1	# scripts/vm has another one
die() { say "${0##*/}: $*"; exit "$die_status"; }

# usage: the comment below the SPDX line, up to the first line that is not a comment
usage() { sed -n '3,${/^#/!q;s/^# \{0,1\}//p}' "$0"; }

# --- the end of a script ------------------------------------------------------

cleanups=()
# on_exit COMMAND...: run it when the script ends, however it ends
on_exit() { cleanups=("$(printf '%q ' "$@")" "${cleanups[@]}"); }

run_cleanups() {
	local command
	trap '' INT TERM HUP
	[[ -z $(jobs -p) ]] || end_tree $$
	for command in "${cleanups[@]}"; do eval "$command" || :; done
}

# descendants PID: print the processes below it, each after its own descendants
descendants() {
	local child
	for child in $(pgrep -P "$1" 2>/dev/null || :); do
		descendants "$child"
		echo "$child"
	done
}

# end_tree PID: all that it has started, and what was started by that; ten seconds later
# by force
end_tree() {
	local pids=() pid i
	mapfile -t pids < <(descendants "$1")
	for pid in "${pids[@]}"; do [[ $pid == "$BASHPID" ]] || kill "$pid" 2>/dev/null || :; done
	for ((i = 0; i < 100; i++)); do
		any_alive "${pids[@]}" || return 0
		sleep 0.1
	done
	for pid in "${pids[@]}"; do [[ $pid == "$BASHPID" ]] || kill -KILL "$pid" 2>/dev/null || :; done
}
any_alive() {
	local pid state
	for pid; do
		[[ $pid != "$BASHPID" ]] || continue
		state=$(sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "/proc/$pid/status" 2>/dev/null) || :
		[[ -z $state || $state == Z ]] || return 0
	done
	return 1
}

# --- options ------------------------------------------------------------------

args=()
# parse_options 'FLAG...' 'NAME...' ARGUMENT...: --FLAG sets the variable of that name to
# "yes", --NAME VALUE to VALUE; the script gives them their defaults before. NAME=VARIABLE
# is for another variable. The other arguments go to the array args. A flag "+" ends the
# options at the first of these.
parse_options() {
	local flags=" $1 " values=$2 variable
	shift 2
	args=()
	while (($#)); do
		if [[ $1 == --help ]]; then
			usage
			exit
		elif [[ $1 == -- ]]; then
			args+=("${@:2}")
			break
		elif [[ $1 == --?* && $flags == *" ${1#--} "* ]]; then
			variable=${1#--}
			printf -v "${variable//-/_}" yes
		elif [[ $1 == --?* ]] && variable=$(option_variable "${1#--}" "$values"); then
			(($# > 1)) || die "$1 needs a value"
			printf -v "$variable" %s "$2"
			shift
		elif [[ $1 == -?* ]]; then
			die "$1: unknown option; see --help"
		elif [[ $flags == *" + "* ]]; then
			args=("$@")
			break
		else
			args+=("$1")
		fi
		shift
	done
	need_number --jobs "$jobs"
	export GRAB_FOLIOS_JOBS=$jobs
}
option_variable() {
	local name
	for name in $2; do
		[[ ${name%%=*} != "$1" ]] || { echo "${name#*=}"; return; }
	done
	return 1
}
no_arguments() { ((!${#args[@]})) || die "${args[0]}: unknown argument; see --help"; }

# need_number OPTION VALUE
need_number() { [[ $2 =~ ^[1-9][0-9]*$ ]] || die "$1 $2: not a number"; }

# --- directories --------------------------------------------------------------

# use_cache: find the cache, and make it
use_cache() {
	cache=${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/grab-folios
	# kbuild refuses to work below such a directory
	if [[ $cache == *[[:space:]:]* ]]; then
		local other=/var/tmp/grab-folios-$UID
		[[ -n ${GRAB_FOLIOS_SAID:-} ]] ||
			say "note: kernels cannot be built below \"$cache\" (white space or colon): using $other"
		export GRAB_FOLIOS_SAID=1
		cache=$other
		[[ -d $cache ]] || mkdir -m 700 "$cache"
		[[ -O $cache && ! -L $cache ]] || die "$cache belongs to another user"
	fi
	mkdir -p "$cache" || die "cannot make the cache directory $cache: set XDG_CACHE_HOME"
	cache=$(cd "$cache" && pwd -P)
	set_work "${GRAB_FOLIOS_WORK:-$cache}"
}

set_work() {
	work=$1
	log=$work/log
	linux=$work/linux		# the kernel tree with the branches base and series
	guest=$work/guest		# the tree that the kernels of the kselftests are built from
	kernel=$work/kernel		# the patched one of these kernels and its modules
	ksft=$work/kselftest		# the kselftests, install/ and others
	kunit_linux=$work/kunit-linux	# the tree that KUnit is built from
	mkdir -p "$log"
}

# users_tree: is this the clone of a tree that a user gave?
users_tree() { [[ $work == "$cache"/tree-* ]]; }

# lock: one run at a time per cache; a script started by the holder passes
lock_fd=''
lock() {
	[[ ${GRAB_FOLIOS_LOCKED:-} != "$cache" ]] || return 0
	exec {lock_fd}>>"$cache/lock"
	if ! flock -n "$lock_fd"; then
		say "another run is using $cache (lock held): waiting for it to end"
		flock "$lock_fd"
	fi
	export GRAB_FOLIOS_LOCKED=$cache
}

# --- time ---------------------------------------------------------------------

elapsed() { printf '%d:%02d' $(((SECONDS - $1) / 60)) $(((SECONDS - $1) % 60)); }

# late: has the budget of scripts/test --minutes been used up? What is running then
# has ten minutes to end.
late() { [[ -n ${GRAB_FOLIOS_UNTIL:-} ]] && ((EPOCHSECONDS >= GRAB_FOLIOS_UNTIL)); }

# within SECONDS: that many, or fewer if --minutes does not grant them
within() {
	local left=$1
	[[ -z ${GRAB_FOLIOS_UNTIL:-} ]] || left=$((GRAB_FOLIOS_UNTIL + 600 - EPOCHSECONDS))
	((left >= 20)) || left=20
	echo $((left < $1 ? left : $1))
}

# commit_number: a number made of the commit of the repository. What --minutes cuts
# off depends on it, so that it is not always the same.
commit_number() {
	local id
	id=$(git --no-optional-locks -C "$repo" rev-parse -q --verify HEAD 2>/dev/null) || id=0
	echo $((16#${id:0:6}))
}

# --- commands with progress -----------------------------------------------------

# watch PID WHAT LOG SECONDS: say that WHAT is running, until killed or orphaned; end it
# after SECONDS
watch() {
	local start=$SECONDS said
	[[ -z $lock_fd ]] || exec {lock_fd}>&-	# it may outlive the run by a second
	while sleep 1; do
		kill -0 $$ 2>/dev/null || return 0
		if ((SECONDS - start >= $4)); then
			said="$2: ended after $4 seconds"
			echo "$said" >>"$3"
			say "$said"
			end_tree "$1"
			kill -KILL "$1" 2>/dev/null || :
			return
		elif [[ -t 2 ]]; then
			printf '\r\033[K%s ... %s (log: %s)' "$2" "$(elapsed "$start")" "$3" >&2
		elif (((SECONDS - start) % 30 == 5)); then
			say "$2 ... $(elapsed "$start") (log: $3)"
		fi
	done
}

# run WHAT LOG COMMAND...: with progress, the output to LOG; the last lines of that on
# failure. Returns what COMMAND returned. It is ended after an hour and a half, the
# longest build here takes 20 minutes on two cores.
run() { run_for 5400 "$@"; }

# try WHAT LOG COMMAND...: run it, and do not show the log when it fails
try() { quiet=yes run_for 5400 "$@"; }

# run_for SECONDS WHAT LOG COMMAND...: run it, but not longer than that
quiet=''
run_for() {
	local what=$2 file=$3 rc=0 pid watcher limit
	limit=$(within "$1")
	shift 3
	mkdir -p "$(dirname "$file")"
	{ "$@" || exit $?; } >"$file" 2>&1 </dev/null &
	pid=$!
	watch "$pid" "$what" "$file" "$limit" &
	watcher=$!
	wait "$pid" || rc=$?
	kill "$watcher" 2>/dev/null || :
	wait "$watcher" 2>/dev/null || :
	[[ ! -t 2 ]] || printf '\r\033[K' >&2
	if ((rc)) && [[ -z $quiet ]]; then
		say "FAILED ($rc): $what: last lines of $file:"
		tail -n 20 "$file" | sed 's/^/    /' >&2
	fi
	return "$rc"
}

# await_place: wait until less than two commands run in the background
await_place() { while (($(jobs -rp | wc -l) >= 2)); do wait -n || :; done; }

# beside COMMAND...: run it in the background as soon as there is a place
beside() {
	await_place
	{ "$@" || :; } &
}
