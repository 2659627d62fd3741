// Servers and clients of measurements: each says what happens to it, a line each, with the time in ms since 1970.
//
//     caller serve PORT DRAIN-MS         answers GET with its host name, echoes what follows HOLD; after SIGTERM it serves on for so long
//     caller call ADDRESS PORT EVERY-MS  a new connection each time: "TIME ok MICROSECONDS" or "TIME failed WHY"
//     caller hold ADDRESS PORT EVERY-MS  one connection, a byte each time: "TIME open", "TIME broken WHY"; then a new one

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static long long now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void say(const char *what, const char *detail) {
    printf("%lld %s %s\n", now(CLOCK_REALTIME) / 1000, what, detail);
    fflush(stdout);
}

static void *answer(void *argument) {
    int fd = (int)(long)argument;
    char text[4096], host[256] = "", reply[512];
    ssize_t got = read(fd, text, sizeof text);
    if (got > 0 && strncmp(text, "HOLD", 4) == 0) {
        while (write(fd, text, got) == got && (got = read(fd, text, sizeof text)) > 0) {
        }
    } else if (got > 0) {
        gethostname(host, sizeof host - 1);
        int length = snprintf(reply, sizeof reply, "HTTP/1.0 200 OK\r\nContent-Length: %zu\r\n\r\n%s\n", strlen(host) + 1, host);
        if (write(fd, reply, length) != length) {
            say("failed", "to answer");
        }
    }
    close(fd);
    return 0;
}

static int drain_ms;

static void end(int signal) {
    (void)signal;
    if (drain_ms == 0) {
        _exit(0);
    }
    // Called once more when the time is over.
    struct itimerspec after = {.it_value = {drain_ms / 1000, drain_ms % 1000 * 1000000L}};
    timer_t timer;
    drain_ms = 0;
    timer_create(CLOCK_MONOTONIC, &(struct sigevent){.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGTERM}, &timer);
    timer_settime(timer, 0, &after, 0);
}

static int serve(int port) {
    int listener = socket(AF_INET6, SOCK_STREAM, 0), off = 0, on = 1;
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = in6addr_any};
    setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024)) {
        perror("listen");
        return 1;
    }
    for (;;) {
        int fd = accept(listener, 0, 0);
        pthread_t thread;
        if (fd >= 0 && pthread_create(&thread, 0, answer, (void *)(long)fd) == 0) {
            pthread_detach(thread);
        }
    }
}

// A connection whose reads and writes end after five seconds.
static int dial(const char *ip, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct timeval patience = {5, 0};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    inet_pton(AF_INET, ip, &address.sin_addr);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

static const char *why(ssize_t got) {
    return got == 0 ? "closed" : errno == EAGAIN ? "timeout" : strerror(errno);
}

static void call(const char *ip, int port, int every) {
    static const char request[] = "GET /hostname HTTP/1.0\r\n\r\n";
    for (;;) {
        long long began = now(CLOCK_MONOTONIC);
        char text[1024];
        ssize_t got = -1;
        int fd = dial(ip, port);
        if (fd >= 0 && write(fd, request, sizeof request - 1) > 0) {
            got = read(fd, text, sizeof text);
        }
        if (got > 12 && strncmp(text + 9, "200", 3) == 0) {
            char took[32];
            snprintf(took, sizeof took, "%lld", now(CLOCK_MONOTONIC) - began);
            say("ok", took);
        } else {
            say("failed", why(got));
        }
        if (fd >= 0) {
            close(fd);
        }
        long long left = began + every * 1000LL - now(CLOCK_MONOTONIC);
        if (left > 0) {
            usleep(left);
        }
    }
}

static void hold(const char *ip, int port, int every) {
    for (;;) {
        char text[4];
        int fd = dial(ip, port);
        ssize_t got = -1;
        int open = 0;
        while (fd >= 0 && send(fd, "HOLD", 4, MSG_NOSIGNAL) == 4 && (got = recv(fd, text, 4, MSG_WAITALL)) == 4) {
            if (!open++) {
                say("open", "");
            }
            usleep(every * 1000);
        }
        say("broken", why(got));
        if (fd >= 0) {
            close(fd);
        }
        usleep(every * 1000);
    }
}

int main(int count, char **arguments) {
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, end);
    if (count == 4 && strcmp(arguments[1], "serve") == 0) {
        drain_ms = atoi(arguments[3]);
        return serve(atoi(arguments[2]));
    }
    if (count == 5 && strcmp(arguments[1], "call") == 0) {
        call(arguments[2], atoi(arguments[3]), atoi(arguments[4]));
    }
    if (count == 5 && strcmp(arguments[1], "hold") == 0) {
        hold(arguments[2], atoi(arguments[3]), atoi(arguments[4]));
    }
    fprintf(stderr, "caller serve PORT DRAIN-MS | call ADDRESS PORT EVERY-MS | hold ADDRESS PORT EVERY-MS\n");
    return 2;
}
