# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# The guests of scripts/lockcheck, and its parts on x86_64.

# shellcheck source=scripts/lib/results.sh
. "${BASH_SOURCE[0]%/*}/results.sh"

vm_options=() logs='' programs='' seconds='' filesystems_x86=() x86_built='' x86_off_built=''

# guest KERNEL OUT TIMEOUT COMMAND...: the output to OUT, the console to OUT.console
guest() {
	local kernel=$work/lockcheck-$1 out=$2 seconds=$3
	shift 3
	case $kernel in
	*-x86*) kernel=$(kernel_image x86_64 "$kernel") ;;
	*) kernel+=/linux ;;
	esac
	try "guest: ${out##*/}" "$out" "$repo/scripts/vm" --kernel "$kernel" --mem 2G \
		--timeout "$seconds" --console "$out.console" "${vm_options[@]}" -- "$@"
}

# build_x86 on|off SYMBOL...: the kernel of scripts/bench with more filesystems, from
# $guest, which is another copy here, so that the builds stay warm. Both are built in
# one directory, as most objects are the same, and copied to $work/lockcheck-x86-on and -off.
build_x86() {
	local name=$1 out=$work/lockcheck-x86 image
	shift
	printf '%s\n' "$@" >"$programs/x86.config"
	checkout_series
	build_kernel x86_64 "x86_64, checker $name" "$guest" "$out" "$logs/build-x86" '' "$repo/scripts/configs/bench" \
		"$repo/scripts/configs/qemu" "$repo/scripts/configs/lockcheck-x86_64" "$programs/x86.config" ||
		die "the series, checker $name, does not build for x86_64"
	image=$(kernel_image x86_64 "$out-$name")
	rm -rf "${out:?}-$name"
	mkdir -p "${image%/*}"
	cp "$(kernel_image x86_64 "$out")" "$image"
	sed 's/o$/ko/' "$out/modules.order" | rsync -a --files-from=- "$out/" "$out-$name/"
	cp "$out/modules.order" "$out-$name/"
}
build_x86_on() {
	[[ $x86_built ]] || build_x86 on CONFIG_DEBUG_FOLIO_LOCK=y CONFIG_FOLIO_LOCK_DEBUG_KUNIT_TEST=y
	x86_built=1
}
build_x86_off() {
	[[ $x86_off_built ]] || build_x86 off CONFIG_DEBUG_FOLIO_LOCK=n
	x86_off_built=1
}

part_kunit_x86() {
	local out=$logs/kunit-x86 guest=$work/guest-x86
	local vm_options=(--no-modules --append "kunit.enable=1 kunit.filter_glob=folio_lock_debug")
	build_x86_on
	guest x86-on "$out" 300 true || :
	if grep -aq 'not ok ' "$out.console" || ! grep -aq ' ok [0-9]* folio_lock_debug' "$out.console" ||
		grep -aq '# SKIP' "$out.console" || [[ -n $(reports "$out.console") ]]; then
		not_ok "KUnit, x86_64: see $out.console"
	else
		ok "KUnit, x86_64: $(grep -ac '        ok \|^[^#]*    ok ' "$out.console") cases"
	fi
}

# All in one guest, as it takes half a minute to boot
part_load_x86() {
	local fs out=$logs/load-x86 guest=$work/guest-x86
	begin_rows load_x86
	build_x86_on
	guest x86-on "$out" $((${#filesystems_x86[@]} * (seconds * 8 + 60) + 120)) "$repo/scripts/lockcheck-guest" \
		"$programs" loads "$seconds" "${filesystems_x86[@]}" || :
	for fs in "${filesystems_x86[@]}"; do
		sed -n "s/^$fs: //p" "$out" >"$out-$fs"
		# shellcheck disable=SC2094
		made "$fs" "$out-$fs" /dev/null
	done
	[[ -z $(reports "$out.console") ]] || not_ok "x86_64: $(reports "$out.console" | sort | uniq -c | paste -sd';')"
}

# objects to compare: of all files that the topic changes, and of others that lock folios
objects=(block/{bio,blk-core}.o kernel/{fork,exit}.o kernel/workqueue.o
	mm/{filemap,page-writeback,readahead,shmem,truncate,memory,vmscan,migrate,rmap,swapfile,swap_state,ksm}.o
	mm/{huge_memory,mlock,page_io,hugetlb,compaction}.o fs/{buffer,mpage,splice,remap_range}.o
	fs/btrfs/{compression,inode,extent_io,file}.o fs/f2fs/{compress,data,gc,node,segment}.o)

# make_objects with|without: compile them from $guest, with the option off. __LINE__ is 0,
# since some objects contain line numbers (btrfs_abort_transaction()).
make_objects() {
	local out=$work/lockcheck-x86 object
	echo CONFIG_DEBUG_FOLIO_LOCK=n >"$programs/x86.config"
	configure_kernel x86_64 "$guest" "$out" '' "$repo/scripts/configs/bench" "$repo/scripts/configs/qemu" \
		"$repo/scripts/configs/lockcheck-x86_64" "$programs/x86.config" &&
		kmake x86_64 -C "$guest" O="$out" KCFLAGS='-Wno-builtin-macro-redefined -D__LINE__=0' "${objects[@]}" || return
	rm -rf "${programs:?}/$1"
	mkdir -p "$programs/$1"
	for object in "${objects[@]}"; do
		strip --strip-unneeded -o "$programs/$1/${object//\//-}" "$out/$object" || return
	done
}

# without_topic: the series without the topic, but with its fix of f2fs
without_topic() {
	local from to
	read -r from to < <(topic_commits) &&
		guest_checkout "$(git_tree rev-parse series)" &&
		git_tree diff "$from" "$to" -- . ':!fs/f2fs/file.c' ':!Documentation' \
			':!mm/Kconfig.debug' ':!mm/Makefile' ':!MAINTAINERS' | git_guest apply -R --3way
}

part_objects() {
	local different guest=$work/guest-x86
	begin_rows objects
	checkout_series
	run "objects with the topic" "$logs/objects" make_objects with || die "objects: see $logs/objects"
	run "take the topic out" "$logs/git" without_topic || die "the topic cannot be taken out"
	run "objects without the topic" "$logs/objects" make_objects without || die "objects: see $logs/objects"
	if different=$(diff -rq "$programs/with" "$programs/without"); then
		ok "objects: ${#objects[@]} are the same with the topic, option off, and without it"
	else
		not_ok "objects: $different"
	fi
	row objects "${objects[*]}|${#objects[@]}|$(printf '%s' "$different" | grep -c . || :)"
}

# The clock of these guests counts instructions. They take turns, 0 warms up.
part_cost() {
	local round what kernel append vm_options raw=$logs/cost.raw guest=$work/guest-x86
	begin_rows cost
	build_x86_on
	build_x86_off
	: >"$raw"
	for round in 1 2; do
		for what in not-built on off; do
			kernel=x86-on append=()
			[[ $what != not-built ]] || kernel=x86-off
			[[ $what != off ]] || append=(--append folio_lock_debug=off)
			vm_options=(--icount --cpus 1 --no-modules "${append[@]}")
			guest "$kernel" "$logs/cost-$what" 900 "$repo/scripts/lockcheck-guest" "$programs" cost || die "cost: see $logs/cost-$what"
			sed -n "s/^cost/$what $round/p" "$logs/cost-$what" >>"$raw"
		done
	done
	# WHAT ROUND WORKLOAD NS OPERATIONS LOCKS: instructions for an operation, and more for a lock
	while IFS= read -r round; do row cost "$round"; done < <(awk '
		{ n = $1 "," $3; ns[n] += $4; ops[n] += $5; if (!($3 in seen)) order[++nr] = $3; seen[$3] = 1
		  if ($1 == "on") locks[$3] += $6 }
		END { for (i = 1; i <= nr; i++) { w = order[i]; per = locks[w] / ops["on," w]
			a = ns["not-built," w] / ops["not-built," w]; b = ns["off," w] / ops["off," w]; c = ns["on," w] / ops["on," w]
			printf "%s|%.2f|%.0f|%.0f|%.0f|%.0f|%.0f\n", w, per, a, b, c, per ? (b - a) / per : 0, per ? (c - a) / per : 0 } }' "$raw")
	cat "$logs/rows/cost"
}
