# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Debian: packages, and the kernel source, which apt downloads and verifies.

# shellcheck source=scripts/lib/git.sh
. "${BASH_SOURCE[0]%/*}/git.sh"

# The one place that names the kernel: Debian's package, and its version.
linux_source='linux-source-7.3'
linux_version=7.3.4-1~bpo13+1
linux_suite=trixie-backports
linux_more_suites="forky sid"	# where a successor is looked for

# use_linux VERSION: another kernel of Debian's, in a private directory: 7.2 for
# patches/ on an older kernel, 6.12 for the backports in stable/
use_linux() {
	case $1 in
	7.2) linux_version=7.2.12-1~bpo13+1 linux_suite=trixie-backports ;;
	6.12) linux_version=6.12.117-1 linux_suite=trixie topics_in='stable/6.12' ;;
	*) die "--linux $1: 7.2 or 6.12 (without the option it is ${linux_source#linux-source-})" ;;
	esac
	linux_source=linux-source-$1 linux_more_suites=bookworm-backports
	set_work "$cache/linux-$1"
}

# --- packages -----------------------------------------------------------------

# package:PROBE, a command or a file that shows that the package is there
packages=(
	gcc:gcc libc6-dev:/usr/include/stdio.h make:make flex:flex bison:bison
	bc:bc git:git perl:prove python3:python3 xz-utils:xz rsync:rsync
	util-linux:flock bsdextrautils:column procps:ps ntfs-3g:mkntfs attr:setfattr
	e2fsprogs:mkfs.ext4 dmsetup:dmsetup kmod:insmod
	ocfs2-tools:mkfs.ocfs2 f2fs-tools:mkfs.f2fs squashfs-tools:mksquashfs
	wimtools:wimlib-imagex genisoimage:genisoimage
)
qemu_packages=(qemu-system-x86:qemu-system-x86_64 libelf-dev:/usr/include/libelf.h)
mail_packages=(b4:b4 git-filter-repo:git-filter-repo)

# need_packages [PACKAGE:PROBE]...: install what is missing of these and of the above, or
# say how and stop
need_packages() {
	local p probe missing=()
	for p in "${packages[@]}" "$@"; do
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
	if ! try "apt-get install" "$log/packages" apt_install "${missing[@]}"; then
		run "apt-get update" "$log/packages" apt-get update ||
			die "apt-get update failed: see above"
		run "apt-get install" "$log/packages" apt_install "${missing[@]}" ||
			die "could not install: ${missing[*]}"
	fi
}

apt_install() {
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
}

# setup [PACKAGE:PROBE]...: the cache, packages, the lock
setup() {
	use_cache
	need_packages "$@"
	lock
}

# --- the kernel source --------------------------------------------------------

apt='' new='' mirror=''	# a private apt, the new tree, and where Debian is downloaded from
got=''			# "VERSION PACKAGE" of the import

apt_private() {
	local cmd=$1
	shift
	"$cmd" -q -o Dir::State="$apt" -o Dir::State::Lists="$apt/lists" \
		-o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" \
		-o Dir::Etc::sourcelist="$apt/debian.sources" -o Dir::Etc::sourceparts=- \
		-o Debug::NoLocking=true -o APT::Sandbox::User=root \
		-o Acquire::AllowInsecureRepositories=false -o Acquire::Languages=none \
		-o APT::Get::AllowUnauthenticated=false -o Acquire::Retries=3 "$@"
}

# shellcheck disable=SC2016 # apt expands it
indextargets() {
	apt-get indextargets --format '$(REPO_URI)' "$@" \
		'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | sed -n 1p
}

# find_mirror: where this machine gets Debian from, by its own configuration
find_mirror() {
	mirror=$(indextargets)
	[[ -z $mirror ]] || return 0
	# no package lists yet: fetch them into a private place
	mkdir -p "$apt/machine/partial"
	run "apt-get update (private lists)" "$log/apt" apt-get -q update -o Dir::State::Lists="$apt/machine" \
		-o Dir::Cache="$apt/cache" -o Debug::NoLocking=true -o APT::Sandbox::User=root || :
	mirror=$(indextargets -o Dir::State::Lists="$apt/machine")
	[[ -n $mirror ]] || die "apt names no Debian mirror on this machine: check its apt sources and run apt-get update"
}

# offer SUITE...: "VERSION PACKAGE" of each kernel source offered there
offer() {
	local keyring=/usr/share/keyrings/debian-archive-keyring.gpg pkg
	[[ -f $keyring ]] || die "$keyring is missing: install debian-archive-keyring"
	printf '%s\n' 'Types: deb' "URIs: $mirror" "Suites: $*" 'Components: main' \
		"Signed-By: $keyring" >"$apt/debian.sources"
	run "read the package lists of $*" "$log/apt" apt_private apt-get update -o APT::Update::Error-Mode=any || return
	for pkg in $(apt_private apt-cache search --names-only '^linux-source-[0-9]+\.[0-9]+$' | cut -d' ' -f1); do
		apt_private apt-cache madison "$pkg" | awk '{ print $3, $1 }'
	done >"$apt/offer"
}

# newest REGEX: the newest "VERSION PACKAGE" of the offer whose package matches
newest() {
	local v p best=''
	while read -r v p; do
		[[ $p =~ ^$1$ ]] || continue
		if [[ -z $best ]] || dpkg --compare-versions "$v" gt "${best% *}"; then
			best="$v $p"
		fi
	done <"$apt/offer"
	printf '%s' "$best"
}

# choose_source: sets got to "VERSION PACKAGE"
choose_source() {
	local want="$linux_version $linux_source"
	: >"$apt/offer"
	offer "$linux_suite" || say "warning: the package list of $linux_suite could not be read"
	got=$want
	! grep -qxF -- "$want" "$apt/offer" || return 0
	got=$(newest "${linux_source//./\\.}")
	if [[ -z $got ]]; then
		# shellcheck disable=SC2086 # a list of words
		offer $linux_suite $linux_more_suites || die "cannot read the package lists of Debian: see above"
		got=$(newest "${linux_source//./\\.}")
	fi
	[[ -n $got || $work != "$cache" ]] || got=$(newest 'linux-source-7\.[0-9]+')
	[[ -n $got ]] || die "no $linux_source in $linux_suite $linux_more_suites"
}

warn_other_version() {
	[[ $got != "$linux_version $linux_source" ]] || return 0
	say "********************************************************************"
	say "* $linux_source $linux_version is not offered any more."
	say "* Using ${got#* } ${got% *} instead: the series may not apply."
	say "********************************************************************"
}

fetch_source() {
	(cd "$apt" && apt_private apt-get download "${got#* }=${got% *}") &&
		mv "$apt/${got#* }"_*.deb "$apt/source.deb"
}

unpack_source() {
	mkdir -p "$new" &&
		dpkg-deb --fsys-tarfile "$apt/source.deb" |
		tar -xO "./usr/src/${got#* }.tar.xz" |
			tar -xJ --strip-components=1 --no-same-owner -C "$new" &&
		[[ -f $new/Kbuild ]]
}

commit_source() {
	local version=${got% *}
	git_fixed init -q --object-format=sha1 -b base "$new" &&
		git_fixed -C "$new" config gc.auto 0 &&
		git_fixed -C "$new" config rebase.updateRefs true &&
		git_fixed -C "$new" config notes.rewriteRef refs/notes/commits &&
		git_fixed -C "$new" -c core.autocrlf=false -c core.fileMode=true -c core.symlinks=true \
			-c core.excludesFile=/dev/null -c core.attributesFile=/dev/null add -f -A &&
		git_fixed -C "$new" -c commit.gpgSign=false commit -q --no-verify \
			-m "Linux ${version%%-*}" -m "Debian's ${got#* }, version $version" &&
		printf '%s\n' "$linux_version" "$got" >"$new/.git/grab-folios-source"
}

# imported: there is an import made for the version wanted; sets got
imported() {
	local for_version
	[[ -f $linux/.git/grab-folios-source ]] || return
	{ read -r for_version && read -r got; } <"$linux/.git/grab-folios-source"
	[[ $for_version == "$linux_version" ]]
}

do_import() {
	! users_tree || return 0
	if ! imported; then
		apt=$work/apt new=$work/linux.new
		rm -rf "$apt" "$new"
		mkdir -p "$apt"/{lists,cache}/partial "$apt"/cache/archives/partial
		: >"$apt/status"
		command -v apt-get >/dev/null || die "no apt-get here: use --tree with your kernel git tree"
		find_mirror
		choose_source
		warn_other_version
		run "download ${got#* } ${got% *}" "$log/download" fetch_source ||
			die "cannot download ${got#* } ${got% *}"
		run "unpack ${got#* }" "$log/unpack" unpack_source || die "cannot unpack ${got#* }"
		run "git import of ${got#* }" "$log/import" commit_source || die "git import failed"
		if [[ -d $linux/.git ]]; then	# a newer version: keep the branches
			git_tree fetch -q --update-head-ok "$new" +base:base ||
				die "cannot bring the new base into $linux"
			mv "$new/.git/grab-folios-source" "$linux/.git/"
			rm -rf "$new"
		else
			rm -rf "$linux"
			mv "$new" "$linux"
		fi
		rm -rf "$apt"
	else
		warn_other_version
	fi
}
