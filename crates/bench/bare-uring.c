// The barest relay by io_uring, beside bare-relay.c: receives that stay armed and fill buffers of a ring, sends that
// are handed over a batch at a time, one call for all of it. It opens its connections to the backend by blocking, has
// no back-pressure, and closes both sides at the first end, so it is for round trips and short connections alone.
//
//     cc -O2 -o /tmp/uring crates/bench/bare-uring.c       (-DFIXED=1: with registered files)
//     cargo xtask bench -w trips-1000 --also uring=/tmp/uring
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef FIXED
#define FIXED 0
#endif
#define MAX_FD 19000
#define REQUESTS 2048
#define COMPLETIONS 16384
#define BUFFERS 8192
#define BUFFER_LENGTH 512

enum kind { ACCEPT, RECEIVE, SEND };

static int peer[MAX_FD];
static int backend_port[MAX_FD];      // of a listener; else 0
static uint16_t generation[MAX_FD];   // a completion of an earlier connection of a descriptor has an older one
static int ring;
static unsigned *request_tail, request_mask, waiting; // written, and not handed over yet
static struct io_uring_sqe *requests;
static unsigned *completion_head, *completion_tail, completion_mask;
static struct io_uring_cqe *completions;
static struct io_uring_buf_ring *pool;
static uint16_t pool_tail;
static char *buffers;

static void hand_over(unsigned wait_for) {
    unsigned count = waiting;
    waiting = 0;
    int done = syscall(__NR_io_uring_enter, ring, count, wait_for, IORING_ENTER_GETEVENTS, 0, 0);
    if (done < 0 && errno != EINTR && errno != EBUSY) perror("io_uring_enter");
}

static struct io_uring_sqe *request(int opcode, int fd, enum kind kind) {
    if (waiting == REQUESTS) hand_over(0);
    unsigned tail = *request_tail;
    struct io_uring_sqe *entry = &requests[tail & request_mask];
    *entry = (struct io_uring_sqe){.opcode = opcode, .fd = fd};
    entry->user_data = (uint64_t)generation[fd] << 48 | (uint64_t)kind << 32 | (unsigned)fd;
    entry->flags = FIXED && kind != ACCEPT ? IOSQE_FIXED_FILE : 0;
    atomic_store_explicit((_Atomic unsigned *)request_tail, tail + 1, memory_order_release);
    waiting++;
    return entry;
}

static void accept_always(int fd) {
    struct io_uring_sqe *entry = request(IORING_OP_ACCEPT, fd, ACCEPT);
    entry->ioprio = IORING_ACCEPT_MULTISHOT;
    entry->accept_flags = SOCK_CLOEXEC;
}

static void receive_always(int fd) {
    struct io_uring_sqe *entry = request(IORING_OP_RECV, fd, RECEIVE);
    entry->ioprio = IORING_RECV_MULTISHOT | IORING_RECVSEND_POLL_FIRST;
    entry->flags |= IOSQE_BUFFER_SELECT;
}

static void send_buffer(int fd, unsigned buffer, unsigned length) {
    struct io_uring_sqe *entry = request(IORING_OP_SEND, fd, SEND);
    entry->addr = (uint64_t)(buffers + (size_t)buffer * BUFFER_LENGTH);
    entry->len = length;
    entry->msg_flags = MSG_NOSIGNAL | MSG_DONTWAIT;
    entry->flags |= IOSQE_CQE_SKIP_SUCCESS;
}

static void give_back(unsigned buffer) {
    struct io_uring_buf *slot = &pool->bufs[pool_tail++ & (BUFFERS - 1)];
    slot->addr = (uint64_t)(buffers + (size_t)buffer * BUFFER_LENGTH);
    slot->len = BUFFER_LENGTH;
    slot->bid = buffer;
}

static void set_file(int fd, int file) {
    struct io_uring_rsrc_update update = {.offset = fd, .data = (uint64_t)&file};
    if (FIXED && syscall(__NR_io_uring_register, ring, IORING_REGISTER_FILES_UPDATE, &update, 1) < 0) perror("files");
}

static struct sockaddr_in local(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static int open_listener(int port, int backend) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = local(port);
    if (bind(fd, (void *)&address, sizeof address) || listen(fd, 4096)) return perror("bind"), 1;
    backend_port[fd] = backend;
    accept_always(fd);
    return 0;
}

static void take_client(int listener, int client) {
    int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in address = local(backend_port[listener]);
    if (client >= MAX_FD || server >= MAX_FD || connect(server, (void *)&address, sizeof address)) {
        close(client), close(server);
        return;
    }
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    peer[client] = server, peer[server] = client;
    for (int at = 0, both[2] = {client, server}; at < 2; at++) {
        generation[both[at]]++;
        set_file(both[at], both[at]);
        receive_always(both[at]);
    }
}

static void end(int fd) {
    int other = peer[fd];
    hand_over(0); // what is to be sent to them goes out first
    peer[fd] = peer[other] = 0;
    set_file(fd, -1), set_file(other, -1);
    shutdown(fd, SHUT_RDWR), shutdown(other, SHUT_RDWR); // ends the receives that are armed
    close(fd), close(other);
}

static void open_ring(void) {
    struct io_uring_params made = {.cq_entries = COMPLETIONS};
    made.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE;
    ring = syscall(__NR_io_uring_setup, REQUESTS, &made);
    if (ring < 0) perror("io_uring_setup"), _exit(1);
    size_t length = made.cq_off.cqes + made.cq_entries * sizeof(struct io_uring_cqe);
    size_t other = made.sq_off.array + made.sq_entries * sizeof(unsigned);
    int mode = PROT_READ | PROT_WRITE, shared = MAP_SHARED | MAP_POPULATE;
    char *base = mmap(0, length > other ? length : other, mode, shared, ring, IORING_OFF_SQ_RING);
    requests = mmap(0, made.sq_entries * sizeof *requests, mode, shared, ring, IORING_OFF_SQES);
    request_tail = (void *)(base + made.sq_off.tail);
    request_mask = made.sq_entries - 1;
    unsigned *order = (void *)(base + made.sq_off.array);
    for (unsigned at = 0; at < made.sq_entries; at++) order[at] = at;
    completion_head = (void *)(base + made.cq_off.head);
    completion_tail = (void *)(base + made.cq_off.tail);
    completion_mask = made.cq_entries - 1;
    completions = (void *)(base + made.cq_off.cqes);
    static int none[MAX_FD];
    memset(none, -1, sizeof none);
    if (FIXED && syscall(__NR_io_uring_register, ring, IORING_REGISTER_FILES, none, MAX_FD) < 0) perror("files");
    int anonymous = MAP_PRIVATE | MAP_ANONYMOUS;
    pool = mmap(0, BUFFERS * sizeof(struct io_uring_buf), mode, anonymous, -1, 0);
    buffers = mmap(0, (size_t)BUFFERS * BUFFER_LENGTH, mode, anonymous, -1, 0);
    struct io_uring_buf_reg registered = {.ring_addr = (uint64_t)pool, .ring_entries = BUFFERS};
    if (syscall(__NR_io_uring_register, ring, IORING_REGISTER_PBUF_RING, &registered, 1) < 0) perror("buffers");
    for (int at = 0; at < BUFFERS; at++) give_back(at);
    atomic_store_explicit((_Atomic uint16_t *)&pool->tail, pool_tail, memory_order_release);
}

// The buffer that the completion filled and that can be given back after the next call, or -1.
static int take(struct io_uring_cqe *completion) {
    int fd = (int)(uint32_t)completion->user_data, more = completion->flags & IORING_CQE_F_MORE;
    int buffer = completion->flags & IORING_CQE_F_BUFFER ? (int)(completion->flags >> IORING_CQE_BUFFER_SHIFT) : -1;
    enum kind kind = completion->user_data >> 32 & 0xffff;
    if (kind == ACCEPT) {
        if (completion->res >= 0) take_client(fd, completion->res);
        if (!more) accept_always(fd);
    }
    int stale = (uint16_t)(completion->user_data >> 48) != generation[fd] || !peer[fd];
    if (kind != RECEIVE || stale) return buffer;
    if (completion->res > 0) send_buffer(peer[fd], buffer, completion->res);
    if (completion->res <= 0 && completion->res != -ENOBUFS)
        end(fd);
    else if (!more)
        receive_always(fd);
    return buffer;
}

int main(int count, char **arguments) {
    if (count > 1 && !strcmp(arguments[1], "--version")) return puts("bare relay, io_uring"), 0;
    FILE *file = fopen(arguments[count - 1], "r");
    if (!file) return perror(arguments[count - 1]), 1;
    open_ring();
    char line[512];
    for (int port = 0, number; fgets(line, sizeof line, file);) {
        if (sscanf(line, " bind 127.0.0.1:%d", &number) == 1) port = number;
        if (sscanf(line, " server s1 127.0.0.1:%d", &number) == 1 && open_listener(port, number)) return 1;
    }
    static int used[COMPLETIONS];
    for (unsigned uses = 0;; uses = 0) {
        hand_over(1);
        unsigned head = *completion_head;
        unsigned tail = atomic_load_explicit((_Atomic unsigned *)completion_tail, memory_order_acquire);
        for (; head != tail; head++) {
            int buffer = take(&completions[head & completion_mask]);
            if (buffer >= 0) used[uses++] = buffer;
        }
        atomic_store_explicit((_Atomic unsigned *)completion_head, head, memory_order_release);
        hand_over(0); // a send is done when it is handed over, so its buffer is free
        for (unsigned at = 0; at < uses; at++) give_back(used[at]);
        atomic_store_explicit((_Atomic uint16_t *)&pool->tail, pool_tail, memory_order_release);
    }
}
