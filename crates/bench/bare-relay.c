// The barest relay: what recv, send, accept and epoll cost by themselves, to see how low a target can be. It has no
// timers, counters, limits, checks or logs, and loses bytes where its peer is slow, so it is for round trips and
// short connections alone.
//
//     cc -O2 -o /tmp/bare crates/bench/bare-relay.c        (-DTHREADS: beside a thread that sleeps)
//     cargo xtask bench -w trips-1000 --also bare=/tmp/bare
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_FD 19000
#define EVENTS 512

static int peer[MAX_FD];
static int backend_port[MAX_FD]; // of a listener; else 0
static char scratch[65536];
static int poller;

static void watch(int fd, unsigned events) {
    struct epoll_event event = {.events = events | EPOLLET, .data.fd = fd};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) perror("epoll_ctl");
}

static struct sockaddr_in local(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static int open_listener(int port, int backend) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = local(port);
    if (bind(fd, (void *)&address, sizeof address) || listen(fd, 4096)) return perror("bind"), 1;
    backend_port[fd] = backend;
    watch(fd, EPOLLIN);
    return 0;
}

static void take_clients(int listener) {
    for (int client; (client = accept4(listener, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        int server = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
        struct sockaddr_in address = local(backend_port[listener]);
        connect(server, (void *)&address, sizeof address);
        if (client >= MAX_FD || server >= MAX_FD) {
            close(client), close(server);
            continue;
        }
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        peer[client] = server, peer[server] = client;
        watch(server, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
        watch(client, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
    }
}

static int relay(int from, int to, unsigned events) {
    if (!(events & EPOLLIN)) return events & (EPOLLHUP | EPOLLERR);
    for (;;) {
        ssize_t got = recv(from, scratch, sizeof scratch, 0);
        if (got <= 0) return got == 0 || errno != EAGAIN;
        if (send(to, scratch, got, MSG_NOSIGNAL) != got) return 1;
        if (got < (ssize_t)sizeof scratch && !(events & (EPOLLRDHUP | EPOLLHUP))) return 0;
    }
}

#ifdef THREADS
// Where threads share the table of descriptors, each call counts references to its file (fdget).
static void *sleeper(void *nothing) {
    for (;;) pause();
    return nothing;
}
#endif

int main(int count, char **arguments) {
    if (count > 1 && !strcmp(arguments[1], "--version")) return puts("bare relay"), 0;
    FILE *file = fopen(arguments[count - 1], "r");
    if (!file) return perror(arguments[count - 1]), 1;
    poller = epoll_create1(EPOLL_CLOEXEC);
#ifdef THREADS
    pthread_t thread;
    pthread_create(&thread, 0, sleeper, 0);
#endif
    char line[512];
    for (int port = 0, number; fgets(line, sizeof line, file);) {
        if (sscanf(line, " bind 127.0.0.1:%d", &number) == 1) port = number;
        if (sscanf(line, " server s1 127.0.0.1:%d", &number) == 1 && open_listener(port, number)) return 1;
    }
    static struct epoll_event events[EVENTS];
    for (;;) {
        int ready = epoll_wait(poller, events, EVENTS, -1);
        for (int at = 0; at < ready; at++) {
            int fd = events[at].data.fd, other = peer[fd];
            if (backend_port[fd])
                take_clients(fd);
            else if (other && relay(fd, other, events[at].events)) {
                peer[fd] = peer[other] = 0;
                close(fd), close(other);
            }
        }
    }
}
