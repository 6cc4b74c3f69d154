#include "process_metrics.h"

#include <prometheus/metric_family.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

namespace smt::server {
namespace {

using prometheus::MetricFamily;
using prometheus::MetricType;

double seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
}

double now(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// When this process started, in seconds of the wall clock.
double start_time() {
  std::ifstream file("/proc/self/stat");
  std::string line;
  std::getline(file, line);
  // Behind the program's name, which may hold anything, the start is the 20th field: in ticks since the machine booted.
  std::istringstream fields(line.substr(line.rfind(')') + 1));
  std::string field;
  for (int i = 0; i < 20; ++i) fields >> field;
  double after_boot = std::strtod(field.c_str(), nullptr) / static_cast<double>(sysconf(_SC_CLK_TCK));
  return now(CLOCK_REALTIME) - now(CLOCK_BOOTTIME) + after_boot;
}

MetricFamily family(const char* name, const char* help, MetricType type, double value) {
  MetricFamily made{name, help, type, {}};
  prometheus::ClientMetric& metric = made.metric.emplace_back();
  (type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  return made;
}

class ProcessMetrics final : public prometheus::Collectable {
 public:
  std::vector<MetricFamily> Collect() const override {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    double pages = 0;
    double resident = 0;
    std::ifstream("/proc/self/statm") >> pages >> resident;
    auto page = static_cast<double>(sysconf(_SC_PAGESIZE));
    rlimit files{};
    getrlimit(RLIMIT_NOFILE, &files);
    std::error_code ignored;
    std::filesystem::directory_iterator open("/proc/self/fd", ignored);
    return {
        family("process_cpu_seconds_total", "User and system CPU time.", MetricType::Counter,
               seconds(usage.ru_utime) + seconds(usage.ru_stime)),
        family("process_resident_memory_bytes", "Memory in RAM.", MetricType::Gauge, resident * page),
        family("process_virtual_memory_bytes", "Address space.", MetricType::Gauge, pages * page),
        family("process_open_fds", "Open files and sockets.", MetricType::Gauge,
               static_cast<double>(std::distance(open, {}))),
        family("process_max_fds", "Most files and sockets that may be open.", MetricType::Gauge,
               static_cast<double>(files.rlim_cur)),
        family("process_start_time_seconds", "Start of the process, Unix time.", MetricType::Gauge, start_),
    };
  }

 private:
  const double start_ = start_time();
};

}  // namespace

std::shared_ptr<prometheus::Collectable> process_metrics() { return std::make_shared<ProcessMetrics>(); }

}  // namespace smt::server
