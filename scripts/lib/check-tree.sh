# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# scripts/tree check: do the tree, patches/, kunit/ and selftests/ agree, and are the
# patches well formed?

# shellcheck source=scripts/lib/debian.sh
. "${BASH_SOURCE[0]%/*}/debian.sh"

problems=''	# a file with a line for each

problem() { say "check: $*"; echo . >>"$problems"; }

check_agreement() {
	local tmp file line
	while IFS= read -r line; do
		[[ -z $line ]] || problem "commit not exported: $line"
	done < <(unexported)
	while IFS= read -r line; do
		[[ -z $line ]] || problem "not committed in $linux: ${line:3}"
	done < <(git_tree status --porcelain --untracked-files=no)
	if ! exportable || [[ $got != "$linux_version $linux_source" ]]; then
		say "check: another base: patches/ are not compared with the tree"
		return 0
	fi
	tmp=$(mktemp -d "$cache/export.XXXXXX")
	on_exit rm -rf "$tmp"
	export_to "$tmp"
	while IFS= read -r file; do
		if [[ ! -e $repo/$file ]]; then
			problem "$file: in the tree only"
		elif [[ ! -e $tmp/$file ]]; then
			problem "$file: not in the tree"
		elif ! cmp -s "$tmp/$file" "$repo/$file"; then
			problem "$file: differs from the tree"
		fi
	done < <({ generated "$repo"; generated "$tmp"; } | sort -u)
	rm -rf "$tmp"
}

check_patch() {
	local patch=$1 name=${1#"$repo/"} signed=$problems.$BASHPID from out file ignore
	! grep -q '^Signed-off-by:' "$patch" || problem "$name: has a Signed-off-by:, which only the sender can add"
	grep -q '^Assisted-by: .' "$patch" || problem "$name: no Assisted-by:"
	from=$(sed -n 's/^From: //p;/^$/q' "$patch" | sed -n 1p)
	[[ $from == *.invalid\> ]] || problem "$name: author \"$from\" is not in the .invalid domain"
	while IFS= read -r file; do
		[[ $(maintainers "$linux" "$file") == *[a-zA-Z]* ]] || problem "$name: nobody in MAINTAINERS has $file"
	done < <(sed -n '/^--- \/dev\/null$/{n;s,^+++ b/,,p}' "$patch")
	# checkpatch wants the sign-off that only the sender can give
	awk -v s="Signed-off-by: ${from}" '/^---$/ && !done { print s; done = 1 } { print }' "$patch" >"$signed"
	# FILE_PATH_CHANGES asks whether MAINTAINERS covers a new file: seen to above.
	# Our tree has no history to look up the commits of Fixes: in.  fs/ntfs has NInoCompressed().
	# The tests of the XArray report by XA_BUG_ON().
	ignore=FILE_PATH_CHANGES,UNKNOWN_COMMIT_ID,CAMELCASE
	! grep -q '^+++ b/lib/test_xarray.c$' "$patch" || ignore+=,AVOID_BUG
	out=$(cd "$linux" && GIT_DIR=/nonexistent perl scripts/checkpatch.pl --strict --terse \
		--no-summary --ignore "$ignore" "$signed" 2>&1 |
		grep -v "Assisted-by expects 'AGENT_NAME:") || :	# before 7.3 it wants a version
	rm -f "$signed"
	[[ -z $out ]] || problem "$name: checkpatch:
${out//"$signed"/    line }"
}

do_check() {
	local patch start=$SECONDS said=$SECONDS
	problems=$(mktemp "$cache/problems.XXXXXX")
	on_exit rm -f "$problems"
	need_series
	users_tree || { imported || die "no import of $linux_version: run scripts/tree import"; }
	check_agreement
	[[ ! -s $problems ]] || die "$(wc -l <"$problems") problem(s)"
	while IFS= read -r patch; do
		beside check_patch "$patch"
		if ((SECONDS - said >= 30)); then
			said=$SECONDS
			say "check ... $(elapsed "$start"): ${patch#"$repo/"}"
		fi
	done < <(topic_dirs | xargs -rd '\n' -I{} find {} -name '*.patch' | sort)
	wait
	[[ ! -s $problems ]] || die "$(wc -l <"$problems") problem(s)"
}
