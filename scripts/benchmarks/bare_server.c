/* Expose a file by the least that libfuse can do: what a server in C costs, as bare_server.py is for pyfuse3.
 *
 * bare_server_c BACKING MOUNTPOINT: serves BACKING as MOUNTPOINT/image, with one thread, past the page cache
 * (direct_io), by one pread or pwrite for each request.  It sleeps while there is none.  scripts/bench compiles it.
 */
#define FUSE_USE_VERSION 35
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { IMAGE = FUSE_ROOT_ID + 1, LARGEST = 1024 * 1024 };
static const char NAME[] = "image";
static const double VALID_SECONDS = 3600;
static int backing;
static off_t size;
static char page[LARGEST] __attribute__((aligned(4096)));

static struct stat status_of(fuse_ino_t inode)
{
	struct stat status = {.st_ino = inode, .st_uid = getuid(), .st_gid = getgid(), .st_blksize = 4096};

	status.st_mode = inode == IMAGE ? S_IFREG | 0600 : S_IFDIR | 0700;
	status.st_nlink = inode == IMAGE ? 1 : 2;
	status.st_size = inode == IMAGE ? size : 0;
	status.st_blocks = status.st_size / 512;
	return status;
}

static void look_up(fuse_req_t request, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry = {.ino = IMAGE, .attr_timeout = VALID_SECONDS, .entry_timeout = VALID_SECONDS};

	if (parent != FUSE_ROOT_ID || strcmp(name, NAME)) {
		fuse_reply_err(request, ENOENT);
		return;
	}
	entry.attr = status_of(IMAGE);
	fuse_reply_entry(request, &entry);
}

static void get_attributes(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file)
{
	struct stat status = status_of(inode);

	(void)file;
	fuse_reply_attr(request, &status, VALID_SECONDS);
}

static void set_attributes(fuse_req_t request, fuse_ino_t inode, struct stat *wanted, int which,
			   struct fuse_file_info *file)
{
	(void)wanted;
	(void)which;
	get_attributes(request, inode, file);
}

static void open_file(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file)
{
	(void)inode;
	file->direct_io = 1;
	fuse_reply_open(request, file);
}

static void read_file(fuse_req_t request, fuse_ino_t inode, size_t length, off_t offset, struct fuse_file_info *file)
{
	ssize_t count = pread(backing, page, length < LARGEST ? length : LARGEST, offset);

	(void)inode;
	(void)file;
	if (count < 0)
		fuse_reply_err(request, errno);
	else
		fuse_reply_buf(request, page, count);
}

static void write_file(fuse_req_t request, fuse_ino_t inode, const char *data, size_t length, off_t offset,
		       struct fuse_file_info *file)
{
	ssize_t count = pwrite(backing, data, length, offset);

	(void)inode;
	(void)file;
	if (count < 0)
		fuse_reply_err(request, errno);
	else
		fuse_reply_write(request, count);
}

static void make_durable(fuse_req_t request, fuse_ino_t inode, int data_only, struct fuse_file_info *file)
{
	(void)inode;
	(void)data_only;
	(void)file;
	fuse_reply_err(request, fdatasync(backing) ? errno : 0);
}

static void get_attribute(fuse_req_t request, fuse_ino_t inode, const char *name, size_t length)
{
	(void)inode;
	(void)name;
	(void)length;
	fuse_reply_err(request, ENODATA);
}

static const struct fuse_lowlevel_ops OPERATIONS = {
	.lookup = look_up,
	.getattr = get_attributes,
	.setattr = set_attributes,
	.open = open_file,
	.read = read_file,
	.write = write_file,
	.fsync = make_durable,
	.getxattr = get_attribute,
};

int main(int count, char *words[])
{
	char *options[] = {words[0], "-o", "fsname=bare_server_c"};
	struct fuse_args arguments = FUSE_ARGS_INIT(3, options);
	struct fuse_session *session;
	struct stat status;
	int result;

	if (count != 3) {
		fprintf(stderr, "usage: %s BACKING MOUNTPOINT\n", words[0]);
		return 2;
	}
	backing = open(words[1], O_RDWR | O_CLOEXEC);
	if (backing < 0 || fstat(backing, &status)) {
		perror(words[1]);
		return 1;
	}
	size = status.st_size;
	session = fuse_session_new(&arguments, &OPERATIONS, sizeof OPERATIONS, NULL);
	if (!session || fuse_set_signal_handlers(session) || fuse_session_mount(session, words[2]))
		return 1;
	result = fuse_session_loop(session);
	fuse_session_unmount(session);
	fuse_remove_signal_handlers(session);
	fuse_session_destroy(session);
	return result < 0;
}
