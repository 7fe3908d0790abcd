# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# What the tests of the scripts share: scripts/test.d/6*-self-*.

# shellcheck source=scripts/lib/results.sh
. "${BASH_SOURCE[0]%/*}/results.sh"

scratch=''
# self_setup [PACKAGE:PROBE]...: and a scratch directory
self_setup() {
	! late || skip_all "no time left"
	setup "$@"
	! users_tree || skip_all "not with --tree"
	scratch=$(mktemp -d "$work/self.XXXXXX")
	on_exit rm -rf "$scratch"
	mkdir "$scratch/tmp"
}

# s_vm ARG...: scripts/vm, with its files in a private place, which tells its guests from
# others
s_vm() { TMPDIR=$scratch/tmp "$repo/scripts/vm" --kernel "$kernel/linux" --timeout 60 "$@"; }

no_guest() { ! pgrep -u "$UID" -f "^$kernel/linux mem=.* uml_dir=$scratch/tmp/"; }

# says TEXT COMMAND...: COMMAND fails and says TEXT
says() {
	local text=$1
	shift
	if "$@" >"$log/self" 2>&1; then
		echo "no failure"
		return 1
	fi
	grep -qF -- "$text" "$log/self" || { cat "$log/self"; return 1; }
}

# sparse_clone DIR: the base, but of its files only those that are patched, those beside
# them, and those by which get_maintainer.pl knows a kernel
sparse_clone() {
	git_fixed clone -q --shared --no-checkout --branch base "$linux" "$1" &&
		{
			printf '%s\n' scripts arch/um/configs init ipc kernel/irq
			git_tree diff --name-only base series | sed -n 's,/[^/]*$,,p'
		} | sort -u | git_fixed -C "$1" sparse-checkout set --cone --stdin &&
		git_fixed -C "$1" checkout -q base
}

# with_cache DIR COMMAND...: as a separate run
with_cache() {
	env -u GRAB_FOLIOS_LOCKED -u GRAB_FOLIOS_WORK -u GRAB_FOLIOS_UNTIL XDG_CACHE_HOME="$1" "${@:2}"
}

# interrupted CONDITION COMMAND...: Ctrl-C as soon as CONDITION, a function, holds
interrupted() {
	local rc=0 pid
	set -m		# a process group, which does not ignore it
	"${@:2}" >"$log/self" 2>&1 </dev/null &
	pid=$!
	set +m
	while ! "$1" && kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
	kill -INT -- "-$pid" || :
	wait "$pid" || rc=$?
	[[ $rc == 130 ]] || { echo "status $rc"; cat "$log/self"; return 1; }
}
