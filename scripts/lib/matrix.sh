# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# What the files in scripts/matrix.d may call. $config is the name of the configuration;
# what a function says about itself goes to $said.

# shellcheck source=scripts/lib/matrix-compile.sh
. "${BASH_SOURCE[0]%/*}/matrix-compile.sh"

count_from=0 skips_from=0
from_here() { count_from=$(counted ok) skips_from=$(counted skip); }
numbers() { echo "$(($(counted ok) - count_from)) tests pass, $(($(counted skip) - skips_from)) skipped"; }

# kunit [--OPTION]... [SYMBOL=VALUE]...: kunit.py with these options and symbols
kunit() {
	local arg options=() dir=$work/matrix/$config file=$log/matrix.$config others
	for arg; do
		if [[ $arg == [A-Z]*=* ]]; then options+=(--kconfig_add "CONFIG_$arg"); else options+=("$arg"); fi
	done
	from_here
	run_kunit "$config" 3000 "$file" "$dir" "${options[@]}"
	said=$(numbers)
	{
		grep -av '^BUG: KCSAN' "$dir/test.log" || :
		races_of_series "$dir/test.log"
	} >"$file.console"
	expect_clean "$config" "$file.console"
	others=$(($(races "$dir/test.log") - $(races "$file.console")))
	((!others)) || said+=", $others races of others"
}

races() { grep -ac '^BUG: KCSAN' "$1" || :; }

# races_of_series CONSOLE: reports of KCSAN about a plain access in a function that
# the series adds or changes. Others are there without it, for example setting a lock bit
# while another task reads the flags beside it; the marked access is the correct one.
races_of_series() {
	local title symbol functions=$log/matrix.functions
	git_tree diff base series -- '*.c' '*.h' |
		sed -n 's/^@@.*@@ //p; s/^+\([a-z].*(\)/\1/p' >"$functions"
	awk '/^BUG: KCSAN/ { title = $0 }
		/^(read|write|read-write)( to| \(racing|.*\(reordered)/ && !/marked/ { plain = 1; next }
		plain { sub(/\+.*/, "", $1); print title "\t" $1; plain = 0 }' <(tr -d '\r' <"$1") |
		while IFS=$'\t' read -r title symbol; do
			! grep -qw -- "$symbol(*" "$functions" || echo "$title"
		done | sort -u
}

# build_guest guest-um|guest-kasan: the kernel with debug options, to $image, and the
# kselftests
image=''
build_guest() {
	local out=$work/matrix/$1 arch=um fragments=("$repo/scripts/configs/kasan-um")
	[[ $1 == guest-um ]] || arch=x86_64 fragments=("$repo/scripts/configs/"{qemu,kasan})
	mapfile -t -O ${#fragments[@]} fragments < <(kselftest_fragments)
	build_kernel "$arch" "$1" "$linux" "$out" "$log/matrix.$1" '' "$repo/scripts/configs/kselftest" "${fragments[@]}" ||
		{ not_ok "$1: does not build"; return 1; }
	image=$(kernel_image "$arch" "$out")
	build_kselftests || { not_ok "the kselftests do not build"; return 1; }
}

# guest guest-um|guest-kasan PATTERN: the kselftests whose "COLLECTION PROGRAM" has the
# pattern, with fewer random operations where the machine is emulated. With KASAN, User
# Mode Linux dies when it starts a second processor: it walks the stack, which belongs to
# the host there, beyond its end.
guest() {
	local line logs=() faults cpus=4 operations=3000
	build_guest "$1" || return 0
	[[ $1 != guest-um ]] || cpus=1 operations=30000
	from_here
	while IFS= read -r line; do
		test_program "$image" "$cpus" "$operations" 7200 "$line"
		program_results "${line##* }"
		logs+=("$log/kselftest.${line##* }")
	done < <(programs | grep -- "$2")
	said=$(numbers)
	faults=$(faults_injected "${logs[@]}")
	((!faults)) || said+=", $faults faults injected"
}
faults_injected() { awk '/^# [0-9]+ (faults,|allocations failed)/ { n += $2 } END { print n + 0 }' "$@"; }

# in_guest WHAT SECONDS ARGS COMMAND...: for hours, with these kernel arguments
in_guest() {
	run_for $(($2 + 700)) "$1" "$log/matrix.$config" "$repo/scripts/vm" --kernel "$image" --mem 2G --timeout "$2" \
		--console "$log/matrix.$config.console" --append "$3" -- "${@:4}"
}

# fuzz: a million ioctls
fuzz() {
	build_guest guest-kasan || return 0
	expect "$config: see $log/matrix.$config" in_guest "a million ioctls" 14400 '' \
		env -C "$ksft/install/loop" LOOP_TEST_CALLS=1000000 ./loop_hostile_test -r fuzz.ioctls
	said=$(sed -n 's/^# LOOP_TEST_SEED=\([0-9]*\).*/seed \1/p; s/^# \(.* transfers\)$/\1/p' "$log/matrix.$config" | paste -sd,)
}

# stress MINUTES: of KUnit only the cases that race, units_race, grab_stress and
# grab_locked_stress: others compare folios with an earlier state, and these can be
# migrated
stress() {
	local seconds=$(($1 * 60)) file=$log/matrix.$config seed
	seed=$(date +%s)
	build_guest guest-kasan || return 0
	expect "$config: see $file" in_guest "$1 minutes of stress" $((seconds + 1800)) \
		'kunit.enable=1 kunit.autorun=0 kunit.filter_glob=*.*_[rs][at][cr]e*' \
		"$repo/scripts/guest/stress" "$seconds" "$seed" "$ksft/install"
	diag "$(grep '^not ok' "$file")"
	said="seed $seed, $(tail -n 1 "$file")"
}

# ctrl_c: at each step of scripts/demo, which is known by its log file
ctrl_c() {
	local step steps='apt download unpack import guest build kselftest-build demo'
	fresh=$work/matrix/ctrl-c
	rm -rf "$fresh"
	on_exit rm -rf "$fresh"
	for step in $steps; do
		reached=$fresh/grab-folios/log/$step
		expect "ctrl-c: $step" interrupted at_step with_cache "$fresh" "$repo/scripts/demo"
		sleep 1
		expect "ctrl-c: $step leaves nothing running" no_process_of "$fresh"
		rm -f "$fresh/grab-folios/log/"*
	done
	expect "ctrl-c: the next run" run "after Ctrl-C" "$log/self" with_cache "$fresh" "$repo/scripts/demo"
	said="$(wc -w <<<"$steps") steps"
}
reached=''
at_step() { [[ -f $reached ]]; }
no_process_of() { ! pgrep -a -u "$UID" -f "$1"; }

# modules: loop as a module links, and so does all else that can be one; unloading
modules() {
	local out=$work/matrix/$config file=$log/matrix.$config
	mkdir -p "$out"
	uml_fragments | xargs -rd '\n' cat |
		sed -E '/(BLK_DEV_LOOP|NTFS_FS|NTFS3_FS|OCFS2_FS|SQUASHFS|F2FS_FS|TEST_FAULTFS|EXT4_FS|NLS_UTF8)=/s/=y$/=m/' >"$out.config"
	build_kernel um "$config" "$linux" "$out" "$file" '' "$out.config" || { not_ok "$config: does not link: see $file"; return; }
	expect "$config: unloading: see $file.unload" run_for 1200 "$config: load and unload" "$file.unload" \
		"$repo/scripts/vm" --kernel "$out/linux" --no-modules -- "$repo/scripts/guest/unload" "$out"
	said="$(grep -c . "$out/modules.order") modules; $(tail -n 1 "$file.unload")"
}

# --- tests of others ------------------------------------------------------------

# blktests GROUP: on the kernel without the series and on the one with it, twice each.
# What passes each time without it has to pass each time with it. BLKTESTS is the
# directory of a checkout; Debian has no package.
blktests() {
	local file=$log/matrix.$config out=$work/matrix/$config end n rc name before after with=0 without=0 all=0
	if [[ ! -x ${BLKTESTS:-}/check ]]; then
		skip "$config" "BLKTESTS is not the directory of a checkout of https://github.com/linux-blktests/blktests"
		said='BLKTESTS is not set'
		return
	fi
	# a test whose program does not build is "not run"
	try "$config: make" "$file.make" make -k -j"$jobs" -C "$BLKTESTS/src" || :
	for end in base series; do
		blktests_kernel "$end" "$out" "$file.build.$end" ||
			{ not_ok "$config: $end does not build: see $file.build.$end"; return; }
		for n in 1 2; do
			rc=0
			run_for 2500 "$config: $end, run $n" "$file.$end.$n" env -C "$BLKTESTS" \
				"$repo/scripts/vm" --kernel "$out/linux" --no-modules --mem 2G --timeout 1800 \
				--console "$file.$end.$n.console" -- "$repo/scripts/guest/blktests" "$out/modules" "$1" || rc=$?
			[[ $end == base ]] || expect "$config: the guest ends well: see $file.$end.$n" test "$rc" = 0
		done
	done
	while IFS= read -r name; do
		before=$(blktests_status "$file.base" "$name") after=$(blktests_status "$file.series" "$name")
		all=$((all + 1))
		[[ $before != passed ]] || without=$((without + 1))
		[[ $after != passed ]] || with=$((with + 1))
		case $before:$after in
		*:passed) ok "$config: $name" ;;
		passed:*) not_ok "$config: $name: $after with the series, $before without it" ;;
		*) skip "$config: $name" "$after with the series, $before without it" ;;
		esac
	done < <(sed -n 's,^\([a-z]*/[0-9]*\) .*\]$,\1,p' "$file".{base,series}.[12] | sort -u)
	((all)) || not_ok "$config: no test was run"
	said="$all tests: $with pass with the series, $without without it"
}

# blktests_status PREFIX NAME: what check says of that test in the runs
blktests_status() {
	local n
	for n in 1 2; do
		sed -n "s,^$2 .*\[\(.*\)\]\$,\1,p" "$1.$n" | grep . || echo missing
	done | sort -u | paste -sd/
}

# blktests_kernel base|series DIR LOG: and its modules, to DIR/modules
blktests_kernel() {
	local fragments mode='' from=(guest_checkout series)
	[[ $1 == series ]] || from=(guest_without base) mode=base
	mapfile -t fragments < <(uml_fragments)
	run "$config: check out $1" "$3" "${from[0]}" "$(git_tree rev-parse "${from[1]}")" &&
		build_kernel um "$config: $1" "$guest" "$2" "$3" "$mode" "${fragments[@]}" "$repo/scripts/configs/blktests" &&
		rm -rf "$2/modules" &&
		run "$config: modules" "$3.modules" kmake um -C "$guest" O="$2" INSTALL_MOD_PATH="$2/modules" modules_install
}

# --- bare roots -----------------------------------------------------------------

# bare SUITE: both commands of the README in a new root of Debian, which has nothing of
# this machine but the mirror, as root and without a cache
bare() {
	local root=$work/matrix/$config.root suite=$1 file=$log/matrix.$config at demo
	((EUID == 0)) || { skip "$config" "needs root"; return; }
	bare_end "$root"
	on_exit bare_end "$root"
	apt=$work/matrix/$config.apt
	mkdir -p "$apt/cache/archives/partial"
	find_mirror
	expect "$config: debootstrap, see $file.debootstrap" run "$config: debootstrap" "$file.debootstrap" \
		debootstrap --variant=minbase "$suite" "$root" "$mirror"
	for dir in proc sys dev; do mount --rbind "/$dir" "$root/$dir" && mount --make-rslave "$root/$dir"; done
	cp /etc/resolv.conf "$root/etc/" 2>/dev/null || :
	cp -a /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/"
	mkdir "$root/root/a series"
	cp -a "$repo/." "$root/root/a series/"
	at=$SECONDS
	expect "$config: scripts/demo, see $file" in_root "$root" "$config: scripts/demo" "$file" scripts/demo
	demo=$(elapsed "$at") at=$SECONDS
	expect "$config: scripts/test, see $file.test" in_root "$root" "$config: scripts/test" "$file.test" scripts/test
	said="scripts/demo $demo, scripts/test $(elapsed "$at"), $(tail -n 1 "$file.test")"
	rm -rf "$file.logs"
	cp -a "$root/root/.cache/grab-folios/log" "$file.logs" || :	# the root goes
}
# in_root ROOT WHAT LOG COMMAND...
in_root() {
	run "$2" "$3" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root GRAB_FOLIOS_JOBS="$jobs" \
		chroot "$1" env -C "/root/a series" "${@:4}"
}
bare_end() {
	local dir
	for dir in dev sys proc; do
		! mountpoint -q "$1/$dir" 2>/dev/null || umount -R -l "$1/$dir"
	done
	rm -rf --one-file-system "$1" "${1%.root}.apt"
}
