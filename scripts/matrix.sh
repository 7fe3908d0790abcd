# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2154,SC2034
#
# scripts/test --matrix, which sources it: KUnit on other machines, with other
# compilers and sanitizers; the kselftests on x86_64; and what has to compile.

# cells: name | package:command it has | what it is
cells() {
	cat <<-'EOT'
	um          | | KUnit, User Mode Linux, 4 processors
	um-clang    | clang-19:clang-19 lld-19:ld.lld-19 llvm-19:llvm-nm-19 | KUnit, User Mode Linux, built by clang
	kasan       | qemu-system-x86:qemu-system-x86_64 libelf-dev:/usr/include/libelf.h | KUnit, x86_64, KASAN, large folios
	kcsan       | qemu-system-x86:qemu-system-x86_64 libelf-dev:/usr/include/libelf.h | KUnit, x86_64, KCSAN, large folios
	ubsan       | qemu-system-x86:qemu-system-x86_64 libelf-dev:/usr/include/libelf.h | KUnit, x86_64, UBSAN, large folios
	i386        | qemu-system-x86:qemu-system-i386 | KUnit, i386, highmem, large folios
	arm64       | qemu-system-arm:qemu-system-aarch64 gcc-aarch64-linux-gnu:aarch64-linux-gnu-gcc | KUnit, arm64, large folios
	arm64-64k   | qemu-system-arm:qemu-system-aarch64 gcc-aarch64-linux-gnu:aarch64-linux-gnu-gcc | KUnit, arm64, pages of 64 KiB, large folios
	s390x       | qemu-system-misc:qemu-system-s390x gcc-s390x-linux-gnu:s390x-linux-gnu-gcc | KUnit, s390x (big-endian)
	riscv64     | qemu-system-misc:qemu-system-riscv64 gcc-riscv64-linux-gnu:riscv64-linux-gnu-gcc | KUnit, riscv64, large folios
	guest-um    | | kselftests, User Mode Linux, KASAN, kmemleak
	guest-ntfs  | qemu-system-x86:qemu-system-x86_64 libelf-dev:/usr/include/libelf.h | kselftests of filesystems/ntfs, x86_64, KASAN
	guest-units | qemu-system-x86:qemu-system-x86_64 libelf-dev:/usr/include/libelf.h | kselftests of filesystems/units, x86_64, KASAN
	guest-loop  | qemu-system-x86:qemu-system-x86_64 libelf-dev:/usr/include/libelf.h | kselftests of loop, x86_64, KASAN
	fuzz        | qemu-system-x86:qemu-system-x86_64 libelf-dev:/usr/include/libelf.h | a million ioctls, x86_64, KASAN
	stress      | qemu-system-x86:qemu-system-x86_64 libelf-dev:/usr/include/libelf.h | stress, x86_64, KASAN, large folios, 30 minutes
	ctrl-c      | | Ctrl-C at each step of scripts/demo
	arm         | gcc-arm-linux-gnueabihf:arm-linux-gnueabihf-gcc sparse:sparse | compiles, 32-bit arm
	powerpc     | gcc-powerpc64le-linux-gnu:powerpc64le-linux-gnu-gcc sparse:sparse | compiles, powerpc
	nommu       | gcc-riscv64-linux-gnu:riscv64-linux-gnu-gcc sparse:sparse | compiles, without an MMU (riscv)
	no-block    | sparse:sparse | compiles, without CONFIG_BLOCK
	no-kunit    | sparse:sparse | compiles, without CONFIG_KUNIT
	no-smp      | libelf-dev:/usr/include/libelf.h sparse:sparse | compiles, without CONFIG_SMP
	loop-m      | | loop and filesystems as modules, unloading
	EOT
}
cell_names() { cells | awk -F ' *[|] *' '{ print $1 }'; }
cell_field() { cells | awk -F ' *[|] *' -v n="$1" -v f="$2" '$1 == n { print $f }'; }

four=(--qemu_args='-smp 4' --kconfig_add CONFIG_NR_CPUS=4)
huge=(--kconfig_add CONFIG_TRANSPARENT_HUGEPAGE=y)

# matrix_cell NAME
matrix_cell() {
	case $1 in
	um) matrix_kunit "$1" --kernel_args=seccomp=on --kernel_args=ncpus=4 ;;
	um-clang) matrix_kunit "$1" --make_options LLVM=-19 --kernel_args=seccomp=on --kernel_args=ncpus=4 ;;
	kasan) matrix_kunit "$1" --arch=x86_64 --qemu_args='-smp 4' --kunitconfig="$repo/kunit/x86_64.config" ;;
	kcsan) matrix_kunit "$1" --arch=x86_64 "${four[@]}" "${huge[@]}" --kconfig_add CONFIG_KCSAN=y ;;
	ubsan) matrix_kunit "$1" --arch=x86_64 "${four[@]}" "${huge[@]}" --kconfig_add CONFIG_UBSAN=y \
		--kconfig_add CONFIG_UBSAN_BOUNDS=y --kconfig_add CONFIG_UBSAN_SHIFT=y --kconfig_add CONFIG_UBSAN_BOOL=y ;;
	i386) matrix_kunit "$1" --arch=i386 --qemu_args='-smp 4 -m 2048' --kconfig_add CONFIG_NR_CPUS=4 "${huge[@]}" \
		--kconfig_add CONFIG_HIGHMEM4G=y ;;
	arm64) matrix_kunit "$1" --arch=arm64 --cross_compile=aarch64-linux-gnu- "${four[@]}" "${huge[@]}" ;;
	arm64-64k) matrix_kunit "$1" --arch=arm64 --cross_compile=aarch64-linux-gnu- --qemu_args='-smp 4 -m 2048' \
		"${huge[@]}" --kconfig_add CONFIG_NR_CPUS=4 --kconfig_add CONFIG_ARM64_64K_PAGES=y ;;
	s390x) matrix_kunit "$1" --arch=s390 --cross_compile=s390x-linux-gnu- --qemu_args='-smp 4 -m 1024' ;;
	riscv64) matrix_kunit "$1" --arch=riscv --cross_compile=riscv64-linux-gnu- "${four[@]}" "${huge[@]}" ;;
	guest-um) matrix_guest "$1" guest-um . ;;
	guest-ntfs | guest-units) matrix_guest "$1" guest-kasan "^filesystems/${1#guest-} " ;;
	guest-loop) matrix_guest "$1" guest-kasan '^loop ' ;;
	fuzz) matrix_fuzz ;;
	ctrl-c) matrix_interrupt ;;
	stress) matrix_stress 30 ;;
	arm) matrix_compile "$1" arm arm-linux-gnueabihf- multi_v7_defconfig "$kselftest_config" ;;
	powerpc) matrix_compile "$1" powerpc powerpc64le-linux-gnu- ppc64_defconfig "$kselftest_config" ;;
	nommu) matrix_compile "$1" riscv riscv64-linux-gnu- nommu_virt_defconfig 'CONFIG_BLK_DEV_LOOP=y' ;;
	no-block) matrix_compile "$1" um '' defconfig 'CONFIG_BLOCK=n' ;;
	no-kunit) matrix_compile "$1" um '' defconfig "$kselftest_config"$'\nCONFIG_KUNIT=n' ;;
	no-smp) matrix_compile "$1" x86_64 '' x86_64_defconfig "$kselftest_config"$'\nCONFIG_SMP=n' ;;
	loop-m) matrix_modules "$1" ;;
	esac
}

# matrix_kunit NAME [OPTION]...: kunit.py, in a build directory of its own
matrix_kunit() {
	local name=$1 dir=$work/matrix/$1 file=$log/matrix.$1 p0=$passed s0=$skipped others
	shift
	mkdir -p "$dir"
	rm -f "$dir/test.log"
	run "$name: KUnit" "$file" without_kvm python3 "$kunit_linux/tools/testing/kunit/kunit.py" run --build_dir="$dir" \
		--kunitconfig="$repo/.kunitconfig" --jobs="$jobs" --timeout=3000 "$@" || not_ok "$name: kunit.py: see $file"
	{
		grep -av '^BUG: KCSAN' "$dir/test.log" || :
		races_of_series "$dir/test.log"
	} >"$file.console"
	count_kunit "$name" "$file" "$file.console"
	matrix_said="$((passed - p0)) tests pass, $((skipped - s0)) skipped"
	others=$(($(races "$dir/test.log") - $(races "$file.console")))
	((!others)) || matrix_said+=", $others races of others"
}

races() { grep -ac '^BUG: KCSAN' "$1" || :; }

# races_of_series CONSOLE: reports of KCSAN about a plain access in a function that
# the series adds or changes. Others are there without it: that a lock bit is taken
# while somebody reads the flags beside it, say. The marked access is the one that
# does it right.
races_of_series() {
	local title symbol functions=$log/matrix.functions
	git_fixed -C "$linux" diff base series -- '*.c' '*.h' |
		sed -n 's/^@@.*@@ //p; s/^+\([a-z].*(\)/\1/p' >"$functions"
	awk '/^BUG: KCSAN/ { title = $0 }
		/^(read|write|read-write)( to| \(racing|.*\(reordered)/ && !/marked/ { plain = 1; next }
		plain { sub(/\+.*/, "", $1); print title "\t" $1; plain = 0 }' <(tr -d '\r' <"$1") |
		while IFS=$'\t' read -r title symbol; do
			! grep -qw -- "$symbol(*" "$functions" || echo "$title"
		done | sort -u
}

# build_guest guest-um|guest-kasan: the kernel that looks for more, to $image, and
# the kselftests
build_guest() {
	local out=$work/matrix/$1 arch=um fragments=("$repo/kunit/kasan-um.config")
	[[ $1 == guest-um ]] || arch=x86_64 fragments=("$repo/kunit/"{qemu,kasan}.config)
	mapfile -t -O ${#fragments[@]} fragments < <(kselftest_fragments)
	build_kernel "$1" "$linux" "$out" "$log/matrix.$1" '' "$repo/kunit/kselftest.config" "${fragments[@]}" ||
		{ not_ok "$1: does not build"; return 1; }
	image=$(kernel_image "$out")
	build_kselftests || { not_ok "the kselftests do not build"; return 1; }
}

# matrix_guest NAME KERNEL PATTERN: the kselftests whose "COLLECTION PROGRAM" has the
# pattern, with fewer random operations where the machine is emulated. With KASAN, User
# Mode Linux dies when it starts a second processor: it walks the stack, which is one
# of the host's there, beyond its end.
matrix_guest() {
	local name=$1 line p0=$passed s0=$skipped logs=() faults
	build_guest "$2" || return 0
	if [[ $2 == guest-um ]]; then cpus=1; else operations=3000; fi
	guest_timeout=7200
	while IFS= read -r line; do
		test_program "$image" "$line"
		count_program "${line##* }"
		logs+=("$log/kselftest.${line##* }")
	done < <(programs | grep -- "$3")
	matrix_said="$((passed - p0)) tests pass, $((skipped - s0)) skipped"
	faults=$(faults_injected "${logs[@]}")
	((!faults)) || matrix_said+=", $faults faults injected"
}
faults_injected() { awk '/^# [0-9]+ (faults,|allocations failed)/ { n += $2 } END { print n + 0 }' "$@"; }

# in_guest WHAT SECONDS ARGS COMMAND...: for hours, with these kernel arguments; what
# it says to $file
in_guest() {
	run "$1" "$file" "$repo/scripts/vm" --kernel "$image" --mem 2G --timeout "$2" --console "$file.console" \
		--append "$3" -- "${@:4}"
}

matrix_fuzz() {
	local file=$log/matrix.fuzz
	build_guest guest-kasan || return 0
	expect "fuzz: see $file" in_guest "a million ioctls" 14400 '' \
		env -C "$ksft/install/loop" LOOP_TEST_CALLS=1000000 ./loop_hostile_test -r fuzz.ioctls
	matrix_said=$(sed -n 's/^# LOOP_TEST_SEED=\([0-9]*\).*/seed \1/p; s/^# \(.* transfers\)$/\1/p' "$file" | paste -sd,)
}

# matrix_stress MINUTES: of KUnit only the cases that race, units_race, grab_stress and
# grab_locked_stress: others compare folios with what was there before, and these can
# be migrated meanwhile.
matrix_stress() {
	local seconds=$(($1 * 60)) file=$log/matrix.stress seed
	seed=$(date +%s)
	build_guest guest-kasan || return 0
	expect "stress: see $file" in_guest "$1 minutes of stress" $((seconds + 1800)) \
		'kunit.enable=1 kunit.autorun=0 kunit.filter_glob=*.*_[rs][at][cr]e*' \
		"$repo/scripts/stress-guest" "$seconds" "$seed" "$ksft/install"
	grep '^not ok' "$file" || :
	matrix_said="seed $seed, $(tail -n 1 "$file")"
}

# The steps are known by their log files.
at_step() { [[ -f $cache2/grab-folios/log/$step ]]; }
matrix_interrupt() {
	local cache2=$work/matrix/ctrl-c step steps='apt download unpack import guest build kselftest-build demo'
	rm -rf "$cache2"
	for step in $steps; do
		expect "ctrl-c: $step" interrupted at_step with_cache "$cache2" "$repo/scripts/demo"
		sleep 1
		expect "ctrl-c: $step leaves nothing running" no_process_of "$cache2"
		rm -f "$cache2/grab-folios/log/"*
	done
	expect "ctrl-c: the next run" run "after Ctrl-C" "$log/self" with_cache "$cache2" "$repo/scripts/demo"
	rm -rf "$cache2"
	matrix_said="$(wc -w <<<"$steps") steps"
}
no_process_of() { ! pgrep -a -u "$UID" -f "$1"; }

kselftest_config=$({ echo "$repo/kunit/kselftest.config"; kselftest_fragments; } | xargs -rd '\n' cat | sed 's/=m$/=y/')

# matrix_compile NAME ARCH PREFIX DEFCONFIG CONFIG: the files that the series
# touches, those that are configured, without new warnings of W=1 or sparse
matrix_compile() {
	local name=$1 arch=$2 prefix=$3 out=$work/matrix/$1 file=$log/matrix.$1 files
	mkdir -p "$out"
	run "$name: configure" "$file.config" matrix_configure "$@" || { not_ok "$name: cannot be configured: $file.config"; return; }
	files=$(git_fixed -C "$linux" diff --name-only --diff-filter=d base series -- '*.c' '*.h' ':!tools')
	run "$name: compile" "$file" matrix_make || not_ok "$name: does not compile: see $file"
	matrix_said="$(matrix_objects | wc -l) objects"
	matrix_warnings "$file" >"$file.found"
	if [[ -s $file.found ]]; then	# are these new?
		git_fixed -C "$kunit_linux" checkout -q -f --detach "$(git_fixed -C "$linux" rev-parse base)"
		run "$name: compile without the series" "$file.base" matrix_make || :
		kunit_checkout
		matrix_warnings "$file.base" | sed 's/:[0-9]*/:/g' >"$file.known"
		awk 'FILENAME == ARGV[1] { known[$0]; next } { line = $0; gsub(/:[0-9]+/, ":", line) } !(line in known)' \
			"$file.known" "$file.found" >"$file.new"
		mv "$file.new" "$file.found"
	fi
	if [[ -s $file.found ]]; then
		not_ok "$name: warnings"
		head -n 10 "$file.found"
	else
		ok
	fi
}
matrix_make() {
	local checker=$work/check.sparse
	[[ $arch != riscv ]] || checker=true	# sparse 0.6.4 knows too few of its -march
	matrix_objects | xargs make -j"$jobs" -s -C "$kunit_linux" ARCH="$arch" O="$out" CROSS_COMPILE="$prefix" \
		W=1 C=2 CHECK="$checker"
}
matrix_warnings() {
	sed "s,$kunit_linux/,," "$1" | grep -E 'warning:|error:' | grep -F -f <(printf '%s\n' "$files") || :
}

matrix_configure() {
	local name=$1 arch=$2 prefix=$3 out=$work/matrix/$1
	kmake -s -C "$kunit_linux" O="$out" CROSS_COMPILE="$prefix" "$4" &&
		printf '%s\n' "$5" >>"$out/.config" &&
		kmake -s -C "$kunit_linux" O="$out" CROSS_COMPILE="$prefix" olddefconfig prepare
}

# matrix_objects: of $files those that are there, and that the configuration builds
matrix_objects() {
	local f
	while IFS= read -r f; do
		[[ $f == *.c && -f $kunit_linux/$f ]] || continue
		case $f in
		drivers/block/loop.c) set_in_config BLK_DEV_LOOP ;;
		fs/user_window.c) set_in_config USER_WINDOW ;;
		lib/test_wofs.c) set_in_config TEST_WOFS ;;
		fs/tests/*) set_in_config USER_WINDOW_KUNIT_TEST ;;
		mm/tests/*) set_in_config KUNIT ;;
		fs/ntfs/wof.c) set_in_config NTFS_FS_WOF_COMPRESSION ;;
		fs/ntfs/*) set_in_config NTFS_FS ;;
		fs/ntfs3/*) set_in_config NTFS3_FS ;;
		fs/ocfs2/*) set_in_config OCFS2_FS ;;
		fs/squashfs/*) set_in_config SQUASHFS ;;
		fs/f2fs/compress.c) set_in_config F2FS_FS_COMPRESSION ;;
		esac || continue
		printf '%s\n' "${f%c}o"
	done <<<"$files"
}
set_in_config() { grep -q "^CONFIG_$1=" "$out/.config"; }

# matrix_modules NAME: loop as a module links, and so does what else can be one
matrix_modules() {
	local name=$1 out=$work/matrix/$1 file=$log/matrix.$1
	mkdir -p "$out"
	uml_fragments | xargs -rd '\n' cat |
		sed -E '/(BLK_DEV_LOOP|NTFS_FS|NTFS3_FS|OCFS2_FS|SQUASHFS|F2FS_FS|TEST_WOFS|EXT4_FS|NLS_UTF8)=/s/=y$/=m/' >"$out.config"
	arch=um build_kernel "$name" "$linux" "$out" "$file" '' "$out.config" || { not_ok "$name: does not link: see $file"; return; }
	expect "$name: unloading: see $file.unload" run "$name: load and unload" "$file.unload" "$repo/scripts/vm" \
		--kernel "$out/linux" --no-modules -- "$repo/scripts/unload-guest" "$out"
	matrix_said="$(grep -c . "$out/modules.order") modules; $(tail -n 1 "$file.unload")"
}

# choose_cells: $matrix is a list of them, "all" or "help"
choose_cells() {
	local cell probes
	if [[ $matrix == help ]]; then
		cells | awk -F ' *[|] *' '{ printf "%-11s  %s\n", $1, $3 }'
		exit
	fi
	[[ $matrix != all ]] || matrix=$(cell_names | paste -sd' ')
	for cell in $matrix; do
		[[ -n $(cell_field "$cell" 1) ]] || die "--matrix=$cell: no such cell; there are: $(cell_names | paste -sd' ')"
		read -r -a probes <<<"$(cell_field "$cell" 2)"
		packages+=("${probes[@]}")
	done
}

# With --record the results go to bench/matrix and from there to MAINTAINERS-notes.
stage_matrix() {
	local cell f0 at matrix_said result
	"$repo/scripts/tree" apply || die "the series does not apply: see above"
	kunit_tree || die "cannot copy the patched tree"
	sparse_wrapper
	for cell in $matrix; do
		f0=$failed at=$SECONDS matrix_said=''
		matrix_cell "$cell"
		result=pass
		((failed == f0)) || result=FAIL
		printf '%-11s | %-46s | Linux %s | %s | %s\n' "$cell" "$(cell_field "$cell" 3)" \
			"$(make -s -C "$linux" kernelversion)" "$result" "$matrix_said" | tee "$log/matrix.$cell.result"
		say "$cell: $(elapsed "$at")"
		[[ -z $record ]] || record_cell "$cell"
	done
}

# record_cell NAME: instead of what was there for it
record_cell() {
	local file=$repo/bench/matrix name
	{
		[[ ! -f $file ]] || grep -v "^$1 " "$file" || :
		cat "$log/matrix.$1.result"
	} >"$file.new"
	for name in $(cell_names); do grep "^$name " "$file.new" || :; done >"$file"
	rm "$file.new"
	awk -v file="$file" '/^----- matrix: end/ { skip = 0 } !skip
		/^----- matrix: begin/ { while ((getline line < file) > 0) print line; skip = 1 }' \
		"$repo/MAINTAINERS-notes" >"$log/notes" && cp "$log/notes" "$repo/MAINTAINERS-notes"
}
