# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Results of kselftests and of kunit.py as TAP.

# shellcheck source=scripts/lib/tap.sh
. "${BASH_SOURCE[0]%/*}/tap.sh"
# shellcheck source=scripts/lib/kernel.sh
. "${BASH_SOURCE[0]%/*}/kernel.sh"

# run_kunit WHAT SECONDS LOG BUILD [OPTION]...: kunit.py run, and its results. SECONDS is
# for the kernel; building it may take half an hour more.
run_kunit() {
	local what=$1 seconds=$2 file=$3 dir=$4 rc=0
	shift 4
	mkdir -p "$dir"
	rm -f "$dir/test.log"
	run_for $((seconds + 1800)) "$what: build and run" "$file" without_kvm \
		python3 "$kunit_linux/tools/testing/kunit/kunit.py" run --build_dir="$dir" --jobs="$jobs" \
		--kunitconfig="$repo/.kunitconfig" --timeout="$(within "$seconds")" "$@" || rc=$?
	kunit_results "$what" "$file"
	((!rc)) || grep -q '\[FAILED\]\|\[CRASHED\]' "$file" || not_ok "$what: kunit.py failed ($rc), see $file"
}

# kunit_results WHAT LOG: each case that kunit.py has printed
kunit_results() {
	local what=$1 verdict name n=0
	while IFS=$'\t' read -r verdict name; do
		case $verdict in
		PASSED) ok "$what: $name"; n=$((n + 1)) ;;
		SKIPPED) skip "$what: $name" ;;
		*) not_ok "$what: $name: $verdict" ;;
		esac
	done < <(kunit_cases "$2")
	((n)) || not_ok "$what: no case passed, see $2"
}
# lines of "VERDICT<tab>SUITE: CASE[: PARAMETER]"
kunit_cases() {
	awk '{ sub(/^\[[0-9:]*\] /, "") }
		/^=+ \[/ { group = ""; next }
		/^=+ .* \([0-9]+ subtests?\) =+$/ { suite = $2 ": "; group = ""; next }
		/^=+ .* =+$/ { group = $2 ": "; next }
		/^\[(PASSED|SKIPPED|FAILED|CRASHED|ERROR)\] / {
			verdict = $1; gsub(/[][]/, "", verdict)
			sub(/^[^ ]* /, ""); print verdict "\t" suite group $0 }' "$1"
}

# expect_clean WHAT CONSOLE
expect_clean() {
	local found=$log/reports
	grep -aE -f "$kernel_reports" "$2" >"$found" || :
	expect_empty "$1: the kernel reported nothing, $2" "$found"
}

# test_program KERNEL CPUS OPERATIONS SECONDS "COLLECTION PROGRAM": what it returns to a
# file .rc. User Mode Linux with several processors can damage a register of a thread
# (MAINTAINERS-notes, "What is red"): a program that had a segmentation fault is run once
# more, and the console of the first run is kept.
test_program() {
	local program=${5##* } out=$log/kselftest.${5##* } rc=0
	rm -f "$out.rc" "$out.segfault"
	run_program "$1" "$2" "$3" "$4" "${5% *}" "$program" "$out" || rc=$?
	if grep -q 'terminated unexpectedly by signal 11' "$out"; then
		mv "$out.console" "$out.segfault"
		rc=0
		run_program "$1" "$2" "$3" "$4" "${5% *}" "$program" "$out" || rc=$?
	fi
	echo "$rc" >"$out.rc"
}

# program_results PROGRAM: what test_program has left
program_results() {
	local program=$1 out=$log/kselftest.$1 rc
	rc=$(cat "$out.rc") || rc=125
	[[ ! -f $out.segfault ]] || diag "$program had a segmentation fault and was run again, see $out.segfault"
	tap_from "$program" "$out"
	if ((rc == 124 || rc == 125)); then
		not_ok "$program: the guest failed ($rc)"
		diag "$(sed -n '/^vm: /,$p' "$out" | tail -n 40)"
	elif ((rc != 0 && rc != 4)) && ! grep -q '^not ok' "$out"; then
		not_ok "$program: exit status $rc"
	fi
}
